extern "C" {
__device__ int counter = 5;
__global__ void bump(int *out) { *out = counter++; }
}
