/* visible.c: prints the PCI bus of every device that is visible. */
#include "check.h"

int main(void)
{
    int n = 0, bus;
    CUresult r = cuInit(0);
    if (r == CUDA_ERROR_NO_DEVICE) {
        printf("none\n");
        return 0;
    }
    OK(r);
    OK(cuDeviceGetCount(&n));
    for (int i = 0; i < n; i++) {
        OK(cuDeviceGetAttribute(&bus, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, i));
        printf("%s%d", i ? " " : "", bus);
    }
    printf("\n");
    return 0;
}
