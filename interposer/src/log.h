// One log for the library. Lines go where HEDDLE_LOG says (config.h), never to standard output.
#ifndef HEDDLE_LOG_H
#define HEDDLE_LOG_H

enum heddle_log_level { HEDDLE_LOG_ERROR, HEDDLE_LOG_WARN, HEDDLE_LOG_INFO, HEDDLE_LOG_DEBUG };

// Writes "heddle[PID]: LEVEL: text" as one write(2) of at most 512 bytes; longer text is cut and ends in "...". No allocation,
// no lock, errno is kept. Of errors and warnings with the same format the 1st to 4th, then the 8th, 16th, 32nd, ... are written,
// with their number. Not for signal handlers (vsnprintf), and not for the launch path.
void heddle_log(enum heddle_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#endif
