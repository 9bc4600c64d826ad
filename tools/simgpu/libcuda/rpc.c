/*
 * rpc.c: the connection to the server.
 *
 * One socket for the process. Sends happen under sim_send_lock, so the order
 * of messages is the order of submission for all threads. Threads that wait
 * for replies elect a reader: it receives for everybody, and hands over when
 * its own reply has come.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sim.h"

uint8_t *sim_status;
pthread_mutex_t sim_send_lock = PTHREAD_MUTEX_INITIALIZER;

struct waiter {
    uint64_t tag;
    struct sim_request *req;
    bool done;
    uint32_t status;
    pthread_cond_t cond;
    struct waiter *next;
};

static int sock = -1;
static atomic_bool dead;
static uint64_t next_tag = 1; /* under sim_send_lock */
static pthread_mutex_t wait_lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiter *waiters;
static bool reading; /* a thread is in recvmsg; under wait_lock */
static uint8_t *packet; /* owned by the reader */

struct header {
    uint16_t op, thread;
    uint32_t nargs;
    uint64_t tag;
};

void sim_req_init(struct sim_request *req, const uint64_t *list, size_t n)
{
    req->op = (uint16_t)list[0];
    req->nargs = (uint16_t)(n - 1);
    memcpy(req->args, list + 1, (n - 1) * sizeof list[0]);
    req->more = NULL;
    req->nmore = 0;
    req->blob = NULL;
    req->blob_len = 0;
    req->fd = -1;
    req->function = NULL;
    req->nout = 0;
    req->out_blob = NULL;
    req->out_blob_cap = req->out_blob_len = 0;
    req->out_fd = -1;
}

/* The server is gone: every waiter and every later call gets an error. */
static CUresult connection_lost(void)
{
    if (!atomic_exchange(&dead, true))
        sim_log("connection to the simgpu server lost: %s", strerror(errno));
    return CUDA_ERROR_DEVICE_UNAVAILABLE;
}

/* A number for the calling thread, so that the server can give each a clock of its own. */
static uint16_t this_thread(void)
{
    static atomic_uint threads;
    static __thread unsigned number; /* 0: none yet */
    if (!number)
        number = atomic_fetch_add(&threads, 1) + 1;
    return (uint16_t)number;
}

/* Sends one packet; sim_send_lock is held. */
static CUresult send_packet(const struct sim_request *req, uint64_t tag)
{
    struct header h = {req->op, this_thread(), req->nargs + (uint32_t)req->nmore, tag};
    struct iovec iov[4] = {{&h, sizeof h},
                           {(void *)(uintptr_t)req->args, req->nargs * sizeof req->args[0]},
                           {(void *)(uintptr_t)req->more, req->nmore * sizeof req->args[0]},
                           {(void *)(uintptr_t)req->blob, req->blob_len}};
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 4};
    if (sizeof h + (req->nargs + req->nmore) * 8 + req->blob_len > SIM_MAX_MESSAGE)
        return CUDA_ERROR_INVALID_VALUE;
    if (req->fd >= 0) {
        memset(&control, 0, sizeof control);
        msg.msg_control = control.buf;
        msg.msg_controllen = sizeof control.buf;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &req->fd, sizeof(int));
    }
    while (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0) {
        if (errno == EINTR)
            continue;
        return connection_lost();
    }
    return CUDA_SUCCESS;
}

static void deliver(const uint8_t *p, size_t n, int fd)
{
    uint32_t status, nargs;
    uint64_t tag;
    if (n < SIM_HEADER_SIZE) {
        if (fd >= 0)
            close(fd);
        return;
    }
    memcpy(&status, p, 4);
    memcpy(&nargs, p + 4, 4);
    memcpy(&tag, p + 8, 8);
    for (struct waiter *w = waiters; w; w = w->next) {
        if (w->tag != tag)
            continue;
        struct sim_request *r = w->req;
        const uint8_t *body = p + SIM_HEADER_SIZE;
        size_t room = sizeof r->out / sizeof r->out[0];
        if (nargs <= (n - SIM_HEADER_SIZE) / 8) {
            r->nout = nargs < room ? nargs : (unsigned)room;
            memcpy(r->out, body, r->nout * 8);
            size_t blob = n - SIM_HEADER_SIZE - nargs * 8;
            if (r->out_blob) {
                r->out_blob_len = blob < r->out_blob_cap ? blob : r->out_blob_cap;
                memcpy(r->out_blob, body + nargs * 8, r->out_blob_len);
            }
        }
        r->out_fd = fd;
        fd = -1;
        w->status = status;
        w->done = true;
        pthread_cond_signal(&w->cond);
        break;
    }
    if (fd >= 0)
        close(fd);
}

/* Receives one packet and delivers it; wait_lock is held, and dropped meanwhile. */
static void read_one(void)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {packet, SIM_MAX_MESSAGE};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
    pthread_mutex_unlock(&wait_lock);
    ssize_t n;
    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    int fd = -1;
    if (n > 0) {
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(&fd, CMSG_DATA(c), sizeof fd);
    }
    pthread_mutex_lock(&wait_lock);
    if (n <= 0) {
        if (n == 0)
            errno = ECONNRESET;
        CUresult lost = connection_lost();
        for (struct waiter *w = waiters; w; w = w->next)
            if (!w->done) {
                w->done = true;
                w->status = lost;
                pthread_cond_signal(&w->cond);
            }
        return;
    }
    deliver(packet, (size_t)n, fd);
}

/* Waits for w's reply; wait_lock is held and w is in the list. */
static void await(struct waiter *w)
{
    while (!w->done) {
        if (atomic_load(&dead)) {
            w->status = CUDA_ERROR_DEVICE_UNAVAILABLE;
            break;
        }
        if (reading) {
            pthread_cond_wait(&w->cond, &wait_lock);
            continue;
        }
        reading = true;
        read_one();
        reading = false;
    }
    struct waiter **p = &waiters;
    while (*p != w)
        p = &(*p)->next;
    *p = w->next;
    if (!reading && waiters)
        pthread_cond_signal(&waiters->cond); /* somebody must read on */
}

/* Sends with a tag and waits; sim_send_lock is held and dropped after sending. */
static CUresult call_locked(struct sim_request *req)
{
    struct waiter w = {.tag = next_tag++, .req = req};
    pthread_cond_init(&w.cond, NULL);
    pthread_mutex_lock(&wait_lock);
    w.next = waiters;
    waiters = &w;
    pthread_mutex_unlock(&wait_lock);
    CUresult res = send_packet(req, w.tag);
    pthread_mutex_unlock(&sim_send_lock);
    pthread_mutex_lock(&wait_lock);
    if (res != CUDA_SUCCESS) {
        w.done = true;
        w.status = res;
    }
    await(&w);
    pthread_mutex_unlock(&wait_lock);
    pthread_cond_destroy(&w.cond);
    return (CUresult)w.status;
}

CUresult sim_call(struct sim_request *req)
{
    if (atomic_load(&dead))
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    pthread_mutex_lock(&sim_send_lock);
    return call_locked(req);
}

CUresult sim_post(struct sim_request *req)
{
    if (atomic_load(&dead))
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    pthread_mutex_lock(&sim_send_lock);
    CUresult res = send_packet(req, 0);
    pthread_mutex_unlock(&sim_send_lock);
    return res;
}

/* While one thread submits a graph, no other's work comes between the nodes. All under sim_send_lock. */
static pthread_cond_t graph_through = PTHREAD_COND_INITIALIZER;
static bool graph_under_way;
static pthread_t graph_of;

static void await_graph(void)
{
    while (graph_under_way && !pthread_equal(graph_of, pthread_self()))
        pthread_cond_wait(&graph_through, &sim_send_lock);
}

void sim_graph_begin(void)
{
    pthread_mutex_lock(&sim_send_lock);
    await_graph();
    graph_under_way = true;
    graph_of = pthread_self();
    pthread_mutex_unlock(&sim_send_lock);
}

void sim_graph_end(void)
{
    pthread_mutex_lock(&sim_send_lock);
    graph_under_way = false;
    pthread_cond_broadcast(&graph_through);
    pthread_mutex_unlock(&sim_send_lock);
}

static CUresult submit(struct sim_stream *stream, struct sim_request *req, bool wait, struct sim_event *event)
{
    if (atomic_load(&dead))
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    pthread_mutex_lock(&sim_send_lock);
    await_graph();
    req->args[0] = stream->obj.index;
    req->args[1] = ++stream->seq;
    if (event) {
        event->stream = stream;
        event->seq = stream->seq;
    }
    if (wait)
        return call_locked(req);
    CUresult res = send_packet(req, 0);
    pthread_mutex_unlock(&sim_send_lock);
    return res;
}

CUresult sim_submit(struct sim_stream *stream, struct sim_request *req, bool wait)
{
    if (atomic_load(&stream->capture) != CU_STREAM_CAPTURE_STATUS_NONE)
        return sim_capture_request(stream, req);
    if (stream->kind == SIM_STREAM_LEGACY) {
        CUresult res = sim_capture_legacy(stream->ctx);
        if (res != CUDA_SUCCESS)
            return res;
    }
    return submit(stream, req, wait, NULL);
}

CUresult sim_submit_event(struct sim_stream *stream, struct sim_request *req, struct sim_event *event)
{
    return submit(stream, req, false, event);
}

uint64_t sim_stream_done(const struct sim_stream *stream)
{
    const _Atomic uint64_t *done = (const _Atomic uint64_t *)(const void *)(sim_status + SIM_STATUS_DONE);
    return atomic_load_explicit(&done[stream->obj.index], memory_order_acquire);
}

/* Called in the child of a fork: the socket belongs to the parent. */
static void after_fork(void)
{
    atomic_store(&sim_forked, true);
    atomic_store(&dead, true);
    if (sock >= 0)
        close(sock);
    sock = -1;
}

static char *join_names(size_t *len)
{
    size_t n = 0;
    for (unsigned i = 0; i < sim_entry_count; i++)
        n += strlen(sim_entry_names[i]) + 1;
    char *s = malloc(n), *p = s;
    for (unsigned i = 0; s && i < sim_entry_count; i++) {
        size_t l = strlen(sim_entry_names[i]);
        memcpy(p, sim_entry_names[i], l);
        p += l;
        *p++ = '\n';
    }
    *len = n;
    return s;
}

CUresult sim_connect(void)
{
    static const uint64_t probe = SIM_STATUS_MAGIC;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *path = getenv("SIMGPU_SOCKET");
    if (!path || strlen(path) >= sizeof addr.sun_path) {
        sim_log("SIMGPU_SOCKET is %s: start a server with `simgpu serve --socket PATH` or `simgpu run -- CMD`",
                path ? "too long" : "not set");
        return CUDA_ERROR_NO_DEVICE;
    }
    memcpy(addr.sun_path, path, strlen(path) + 1);
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&addr, sizeof addr) < 0) {
        sim_log("cannot reach the simgpu server at %s: %s", path, strerror(errno));
        if (sock >= 0)
            close(sock);
        sock = -1;
        return CUDA_ERROR_NO_DEVICE;
    }
    struct ucred peer = {0};
    socklen_t len = sizeof peer;
    getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len);
    if (prctl(PR_SET_PTRACER, (unsigned long)peer.pid, 0, 0, 0) < 0 && errno != EINVAL)
        sim_log("prctl(PR_SET_PTRACER): %s", strerror(errno));
    packet = malloc(SIM_MAX_MESSAGE);
    size_t names_len;
    char *names = join_names(&names_len);
    /* cuMemAlloc's addresses come from here; no memory is behind it. */
    const uint64_t arena_size = (uint64_t)1 << 40;
    void *arena = mmap(NULL, arena_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!packet || !names || arena == MAP_FAILED) {
        free(names);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    SIM_REQ(req, SIM_OP_HELLO, SIM_VERSION, (uint64_t)getpid(), SIM_KIND_CLIENT, (uint64_t)(uintptr_t)&probe,
            (uint64_t)(uintptr_t)arena, arena_size);
    req.blob = names;
    req.blob_len = names_len;
    CUresult res = sim_call(&req);
    free(names);
    if (res != CUDA_SUCCESS) {
        sim_log("the simgpu server at %s refused this process: error %d%s", path, (int)res,
                res == CUDA_ERROR_OPERATING_SYSTEM ? " (it may not read this process's memory: see kernel.yama.ptrace_scope)" : "");
        return res;
    }
    if (req.nout < 2 || req.out_fd < 0)
        return CUDA_ERROR_UNKNOWN;
    void *page = mmap(NULL, SIM_STATUS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, req.out_fd, 0);
    close(req.out_fd);
    if (page == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    sim_status = page;
    pthread_atfork(NULL, NULL, after_fork);
    return sim_devices_init((int)req.out[0], req.out[1]);
}
