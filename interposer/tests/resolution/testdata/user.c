int cuMemAlloc_v2(unsigned long long *, unsigned long);
int use(void) { unsigned long long p; return cuMemAlloc_v2(&p, 1); }
