struct each { const char *name, *base; int since, per_thread, answer, own, wrapped; void *address; };
extern const struct each each[]; // ends with name 0
