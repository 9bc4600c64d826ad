int cuptiSubscribe(long a, long b, long c) { return (int)(a * 100 + b * 10 + c); }
int cuptiSubscribeNot(void) { return 0; }
