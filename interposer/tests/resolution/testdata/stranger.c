int cuMemAlloc_v2(void) { return 1; }
