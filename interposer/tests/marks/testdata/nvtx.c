// A program with NVTX ranges of every kind, by NVTX's own headers.
#include <dlfcn.h>
#include <nvtx3/nvToolsExt.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static void launch(void) {
  union { void *found; void (*call)(void); } f = {dlsym((void *)0, "test_launch")};
  if (f.found != NULL) f.call();
}

static nvtxRangeId_t range;
static void *ends(void *arg) {
  (void)arg;
  nvtxRangeEnd(range);
  return NULL;
}

static nvtxEventAttributes_t ascii(const char *text) {
  nvtxEventAttributes_t a = {0};
  a.version = NVTX_VERSION;
  a.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  a.messageType = NVTX_MESSAGE_TYPE_ASCII;
  a.message.ascii = text;
  return a;
}
static nvtxEventAttributes_t registered(nvtxStringHandle_t handle) {
  nvtxEventAttributes_t a = ascii(NULL);
  a.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  a.message.registered = handle;
  return a;
}

int main(void) {
  pthread_t t;
  nvtxEventAttributes_t a;
  launch();
  // Push and pop: as torch.cuda.nvtx does.
  printf("push %d", nvtxRangePushA("request push"));
  launch();
  printf(" %d", nvtxRangePushA("layer"));
  printf(" %d", nvtxRangePushA("request within"));
  launch();
  printf(" pop %d", nvtxRangePop());
  printf(" %d", nvtxRangePop());
  printf(" %d\n", nvtxRangePop());
  nvtxRangePushA("epoch");
  nvtxRangePushW(L"request w\u00fc\u20ac\U0001f600");
  nvtxRangePop();
  nvtxRangePop();
  printf("pop too many %s\n", nvtxRangePop() < 0 ? "refused" : "taken");
  nvtxMarkA("request mark");
  a = ascii("request ex");
  nvtxRangePushEx(&a);
  nvtxRangePop();
  a = ascii(NULL);
  nvtxRangePushEx(&a);
  a.messageType = NVTX_MESSAGE_UNKNOWN;
  nvtxRangePushEx(&a);
  nvtxRangePop();
  nvtxRangePop();
  // Start and end, in two threads.
  range = nvtxRangeStartA("request start");
  launch();
  pthread_create(&t, NULL, ends, NULL);
  pthread_join(t, NULL);
  nvtxRangeEnd(nvtxRangeStartA("batch"));
  nvtxRangeEnd(nvtxRangeStartW(L"request start w"));
  nvtxRangeEnd(0);
  // Registered strings, and domains, whose stacks are their own.
  nvtxStringHandle_t yes = nvtxDomainRegisterStringA(NULL, "request registered"), no = nvtxDomainRegisterStringA(NULL, "unregistered");
  a = registered(yes);
  nvtxDomainRangePushEx(NULL, &a);
  a = registered(no);
  nvtxDomainRangePushEx(NULL, &a);
  nvtxDomainRangePop(NULL);
  nvtxDomainRangePop(NULL);
  nvtxDomainHandle_t serve = nvtxDomainCreateA("serve"), again = nvtxDomainCreateW(L"serve"), other = nvtxDomainCreateA("other");
  nvtxStringHandle_t served = nvtxDomainRegisterStringW(serve, L"request served"), same = nvtxDomainRegisterStringA(again, "request served");
  printf("%s\n", served == same ? "same string" : "two strings");
  a = registered(served);
  nvtxDomainRangePushEx(serve, &a);
  a = ascii("request default inside");
  nvtxRangePushEx(&a);
  nvtxDomainRangePop(again); // the outer domain's range ends first
  nvtxRangePop();
  a = ascii("request of other");
  nvtxDomainRangePushEx(other, &a);
  nvtxDomainRangePop(other);
  a = registered(same);
  nvtxDomainRangeEnd(serve, nvtxDomainRangeStartEx(serve, &a));
  nvtxDomainDestroy(serve);
  return 0;
}
