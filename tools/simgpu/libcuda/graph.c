/* graph.c: stream capture. */
#include "sim.h"

pthread_mutex_t sim_capture_lock = PTHREAD_MUTEX_INITIALIZER;

CUresult sim_capture_request(struct sim_stream *stream, struct sim_request *req)
{
    (void)req;
    return sim_capture_forbid(stream);
}

CUresult sim_capture_event_record(struct sim_stream *stream, struct sim_event *event)
{
    (void)event;
    return sim_capture_forbid(stream);
}

CUresult sim_capture_event_wait(struct sim_stream *stream, struct sim_event *event, bool *handled)
{
    (void)stream;
    (void)event;
    *handled = false;
    return CUDA_SUCCESS;
}

CUresult sim_capture_forbid(struct sim_stream *stream)
{
    (void)stream;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult sim_capture_unsafe(void)
{
    return CUDA_SUCCESS;
}
