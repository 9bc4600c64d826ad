# Writes a CUDA source whose cubin is about 1 MB: 64 kernels of straight-line code.
n = 64
print(
    "\n".join(
        'extern "C" __global__ void k%d(float*p,float a){float v=p[threadIdx.x];\n#pragma unroll\nfor(int i=0;i<900;i++)v=__fmaf_rn(v,a,%d.f+i);p[threadIdx.x]=v;}'
        % (i, i)
        for i in range(n)
    )
)
print(
    'extern "C" __global__ void biglocal(float*p,int n){volatile float a[24576];for(int i=0;i<n;i++)a[(i*977)%24576]=p[i];float s=0;for(int i=0;i<n;i++)s+=a[(i*33)%24576];p[0]=s;}'
)
print(
    'extern "C" __global__ void biglocal2(float*p,int n){volatile float a[49152];for(int i=0;i<n;i++)a[(i*977)%49152]=p[i];float s=0;for(int i=0;i<n;i++)s+=a[(i*33)%49152];p[0]=s;}'
)
