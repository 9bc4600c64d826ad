# Writes a CUDA source whose cubin is about 1 MB: 64 kernels of straight-line code.
kernel = (
    'extern "C" __global__ void k@(float*p,float a){float v=p[threadIdx.x];\n#pragma unroll\n'
    "for(int i=0;i<900;i++)v=__fmaf_rn(v,a,@.f+i);p[threadIdx.x]=v;}"
)
for i in range(64):
    print(kernel.replace("@", str(i)))
print(
    'extern "C" __global__ void biglocal(float*p,int n){volatile float a[24576];for(int i=0;i<n;i++)a[(i*977)%24576]=p[i];float s=0;for(int i=0;i<n;i++)s+=a[(i*33)%24576];p[0]=s;}'
)
print(
    'extern "C" __global__ void biglocal2(float*p,int n){volatile float a[49152];for(int i=0;i<n;i++)a[(i*977)%49152]=p[i];float s=0;for(int i=0;i<n;i++)s+=a[(i*33)%49152];p[0]=s;}'
)
