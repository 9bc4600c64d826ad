int cuptiSubscribe(long a, long b, long c);
int use_cupti(void) { return cuptiSubscribe(1, 2, 3); }
