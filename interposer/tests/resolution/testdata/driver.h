// The driver double of the resolution tests.
struct driver_row { const char *name, *base; int since, per_thread; void *pointer; };
extern const struct driver_row driver_rows[]; // ends with name 0
