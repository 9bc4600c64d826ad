/* vmm_share.c: one process's memory in another, at the same address, by a descriptor over a socket. */
#include "check.h"
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BASE ((CUdeviceptr)0x200000000000) /* 32 TiB */
#define WINDOW ((size_t)256 << 30)
#define SIZE ((size_t)4 << 20)
#define GRANULE ((size_t)2 << 20)

static void send_fd(int sock, int fd)
{
    char c = 1, buf[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&c, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    TRUE(sendmsg(sock, &m, 0) == 1);
}

static int receive_fd(int sock)
{
    char c, buf[CMSG_SPACE(sizeof(int))];
    int fd;
    struct iovec iov = {&c, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf};
    TRUE(recvmsg(sock, &m, 0) == 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    return fd;
}

static const CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                         .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                         .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
static const CUmemAccessDesc all = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};

static void barrier(int sock)
{
    char c = 0;
    TRUE(write(sock, &c, 1) == 1 && read(sock, &c, 1) == 1);
}

/* Reserves the window at its place, or fails. */
static CUdeviceptr reserve(void)
{
    CUdeviceptr at;
    OK(cuMemAddressReserve(&at, WINDOW, 0, BASE, 0));
    TRUE(at == BASE);
    return at;
}

static void exporter(int sock)
{
    CUmemGenericAllocationHandle h;
    CUmemAllocationProp back;
    CUdeviceptr at, elsewhere;
    size_t free0, free1, total, g;
    unsigned v[4];
    int fd;
    primary();
    OK(cuMemGetInfo(&free0, &total));
    OK(cuMemGetAllocationGranularity(&g, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    TRUE(g == GRANULE);
    IS(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&h, 4096, &prop, 0));
    at = reserve();

    /* An occupied place is not given; something else is. */
    OK(cuMemAddressReserve(&elsewhere, GRANULE, 0, at + GRANULE, 0));
    TRUE(elsewhere < BASE || elsewhere >= BASE + WINDOW);
    OK(cuMemAddressFree(elsewhere, GRANULE));
    void *host = mmap((void *)0x1f0000000000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    OK(cuMemAddressReserve(&elsewhere, GRANULE, 0, (CUdeviceptr)(uintptr_t)host, 0));
    TRUE(elsewhere != (CUdeviceptr)(uintptr_t)host);
    OK(cuMemAddressFree(elsewhere, GRANULE));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(elsewhere, GRANULE));

    OK(cuMemCreate(&h, SIZE, &prop, 0));
    OK(cuMemGetInfo(&free1, &total));
    TRUE(free0 - free1 == SIZE);
    OK(cuMemGetAllocationPropertiesFromHandle(&back, h));
    TRUE(back.location.id == 0 && back.requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(BASE + WINDOW, SIZE, 0, h, 0)); /* outside every reservation */
    OK(cuMemMap(at + GRANULE, SIZE, 0, h, 0));                           /* inside one */
    IS(CUDA_ERROR_INVALID_VALUE, cuMemMap(at, SIZE, 0, h, 0));           /* would overlap */
    OK(cuMemSetAccess(at + GRANULE, SIZE, &all, 1));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(at + GRANULE, GRANULE)); /* half a mapping */
    IS(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(at, WINDOW));      /* something is mapped */
    OK(cuMemsetD32(at + GRANULE, 0xabcd, SIZE / 4));
    OK(cuCtxSynchronize());
    OK(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    send_fd(sock, fd);
    close(fd);
    barrier(sock); /* the other process has written */
    OK(cuMemcpyDtoH(v, at + GRANULE, sizeof v));
    TRUE(v[0] == 0x1111 && v[1] == 0xabcd);

    /* The memory lives as long as the importer's mapping. */
    OK(cuMemUnmap(at + GRANULE, SIZE));
    OK(cuMemRelease(h));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemRelease(h));
    OK(cuMemGetInfo(&free1, &total));
    TRUE(free0 - free1 == SIZE);
    barrier(sock); /* gone here */
    barrier(sock); /* gone there */
    OK(cuMemGetInfo(&free1, &total));
    TRUE(free0 == free1);
    OK(cuMemAddressFree(at, WINDOW));
}

static void importer(int sock)
{
    CUmemGenericAllocationHandle h, again;
    CUmemAllocationProp own = prop;
    CUdeviceptr at, base;
    unsigned long long flags;
    size_t size;
    unsigned v[2];
    int fd;
    primary();
    at = reserve();
    fd = receive_fd(sock);
    OK(cuMemImportFromShareableHandle(&h, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    close(fd);
    IS(CUDA_ERROR_INVALID_VALUE, cuMemImportFromShareableHandle(&again, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    OK(cuMemMap(at + GRANULE, SIZE, 0, h, 0));
    OK(cuMemGetAccess(&flags, &all.location, at + GRANULE));
    TRUE(flags == CU_MEM_ACCESS_FLAGS_PROT_NONE);
    OK(cuMemSetAccess(at + GRANULE, SIZE, &all, 1));
    OK(cuMemGetAccess(&flags, &all.location, at + GRANULE));
    TRUE(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    OK(cuMemGetAddressRange(&base, &size, at + GRANULE + 100));
    TRUE(base == at + GRANULE && size == SIZE);
    OK(cuMemcpyDtoH(v, at + GRANULE, sizeof v));
    TRUE(v[0] == 0xabcd && v[1] == 0xabcd);
    OK(cuMemsetD32(at + GRANULE, 0x1111, 1));
    OK(cuCtxSynchronize());
    OK(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)(at + GRANULE)));
    TRUE(again == h);
    OK(cuMemRelease(again));
    OK(cuMemRelease(h)); /* the mapping holds it */
    barrier(sock);
    barrier(sock); /* the exporter let go */
    OK(cuMemcpyDtoH(v, at + GRANULE, sizeof v));
    TRUE(v[0] == 0x1111 && v[1] == 0xabcd);
    OK(cuMemUnmap(at + GRANULE, SIZE));
    OK(cuMemAddressFree(at, WINDOW));
    own.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
    OK(cuMemCreate(&h, SIZE, &own, 0));
    IS(CUDA_ERROR_INVALID_VALUE, cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    OK(cuMemRelease(h));
    barrier(sock);
}

int main(void)
{
    int pair[2], status;
    TRUE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    pid_t child = fork();
    if (child == 0) {
        importer(pair[1]);
        return 0;
    }
    exporter(pair[0]);
    TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 0;
}
