// The two operations of StyleGAN2 that PyTorch has no single kernel for. Both are bound by memory: each value is read once, written once,
// and computed in float whatever its type. No torch header is needed, so a compiler takes seconds; Python hands in raw pointers (cuda.py).
//
// An ordinary C++ compiler takes this file too and runs every thread in turn: that is how the arithmetic is tested without a GPU.

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
using Half = __half;
using Brain = __nv_bfloat16;
#define CONSTANT __grid_constant__
#define UNROLL _Pragma("unroll")
#define LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, (cudaStream_t)stream>>>(__VA_ARGS__)
#define STATUS() (int)cudaGetLastError()
#else
#include <algorithm>
#define CONSTANT
#define UNROLL
#define __global__
#define __device__
#define __restrict__
struct dim3 { unsigned x, y; dim3(unsigned x = 1, unsigned y = 1) : x(x), y(y) {} };
static dim3 blockIdx, threadIdx, blockDim, gridDim;
using std::min;
#define LAUNCH(kernel, grid, block, stream, ...)                                        \
    do {                                                                                \
        gridDim = grid; blockDim = block;                                               \
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)                      \
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)                  \
                for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)          \
                    kernel(__VA_ARGS__);                                                \
    } while (0)
#define STATUS() 0
#endif

namespace {

constexpr int THREADS = 256;
constexpr int MAX_BLOCKS = 1 << 16;
constexpr int MAX_TAPS = 16;
constexpr int STRIP = 8;  // output rows of one thread in `blur`: (STRIP + 3) / STRIP rows read for each one written
constexpr int BLUR_TAPS = 4;

// Conversions by name: torch's loader switches the implicit ones off.
__device__ float to_float(float x) { return x; }
template <typename T> __device__ T from_float(float x) { return x; }
#ifdef __CUDACC__
__device__ float to_float(Half x) { return __half2float(x); }
__device__ float to_float(Brain x) { return __bfloat162float(x); }
template <> __device__ Half from_float<Half>(float x) { return __float2half(x); }
template <> __device__ Brain from_float<Brain>(float x) { return __float2bfloat16(x); }
#endif

// Several values in one access: four are 16 bytes of float, 8 of the half types.
template <typename T, int N> struct alignas(N * sizeof(T)) Pack { T v[N]; };


// ---- bias + noise + leaky ReLU + gain

// x is [outer, inner] in memory order. channels_last: outer is the batch and the channel runs fastest;
// else outer is batch * channels and the pixel is the inner index.
struct Layout {
    int outer, inner, channels;
    bool channels_last;
};

__device__ float addend(const Layout& s, int outer, int i, const float* bias, const float* noise, int noise_step) {
    int channel = s.channels_last ? i % s.channels : outer % s.channels;
    int pixel = s.channels_last ? i / s.channels : i;
    int picture = s.channels_last ? outer : outer / s.channels;
    return (bias ? bias[channel] : 0.f) + (noise ? noise[picture * noise_step + pixel] : 0.f);
}

template <typename T, int N>
__global__ void act_kernel(const T* __restrict__ x, const float* bias, const float* noise, int noise_step, T* __restrict__ y, Layout s,
                           float leak, float gain) {
    for (int outer = blockIdx.y; outer < s.outer; outer += gridDim.y)
        for (int i = (blockIdx.x * blockDim.x + threadIdx.x) * N; i < s.inner; i += gridDim.x * blockDim.x * N) {
            long at = (long)outer * s.inner + i;
            Pack<T, N> value = *(const Pack<T, N>*)(x + at);
            UNROLL
            for (int j = 0; j < N; j++) {
                float sum = to_float(value.v[j]) + addend(s, outer, i + j, bias, noise, noise_step);
                value.v[j] = from_float<T>(sum * (sum > 0 ? gain : gain * leak));
            }
            *(Pack<T, N>*)(y + at) = value;
        }
}

// The derivative, and its own: `g` times the slope where `y`, the activation's output, has its sign. All in one memory order.
template <typename T>
__global__ void slope_kernel(const T* __restrict__ g, const T* __restrict__ y, T* __restrict__ out, long count, float leak, float gain) {
    for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (long)gridDim.x * blockDim.x)
        out[i] = from_float<T>(to_float(g[i]) * (to_float(y[i]) > 0 ? gain : gain * leak));
}

// ---- resampling

// out[o] = sum_k taps[k] * spread[o * down + k - pad] on both axes; spread has up-1 zeros behind each pixel and zeros around.
struct Geometry {
    int n, c, h, w, out_h, out_w, up, down, pad, taps;
    bool channels_last;
    float tap[MAX_TAPS];
};

__device__ int offset(const Geometry& s, int n, int c, int y, int x, int h, int w) {
    return s.channels_last ? ((n * h + y) * w + x) * s.c + c : ((n * s.c + c) * h + y) * w + x;
}

// Picture, channel, row (of `rows`) and column of a thread, neighbours in memory being neighbours among the threads.
__device__ void place(const Geometry& s, int i, int rows, int& n, int& c, int& row, int& x) {
    if (s.channels_last) { c = i % s.c; i /= s.c; }
    x = i % s.out_w; i /= s.out_w;
    row = i % rows; i /= rows;
    if (!s.channels_last) { c = i % s.c; i /= s.c; }
    n = i;
}

// First tap that meets a pixel rather than a zero between two.
__device__ int first_tap(int start, int up) { return ((-start) % up + up) % up; }

template <typename T>
__global__ void resample_kernel(const T* __restrict__ x, T* __restrict__ out, const CONSTANT Geometry s, int count) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        int n, c, oy, ox;
        place(s, i, s.out_h, n, c, oy, ox);
        int top = oy * s.down - s.pad, left = ox * s.down - s.pad;
        float sum = 0;
        for (int ky = first_tap(top, s.up); ky < s.taps; ky += s.up) {
            int iy = (top + ky) / s.up;
            if (iy < 0 || iy >= s.h) continue;
            float row = 0;
            for (int kx = first_tap(left, s.up); kx < s.taps; kx += s.up) {
                int ix = (left + kx) / s.up;
                if (ix >= 0 && ix < s.w) row += s.tap[kx] * to_float(x[offset(s, n, c, iy, ix, s.h, s.w)]);
            }
            sum += s.tap[ky] * row;
        }
        out[offset(s, n, c, oy, ox, s.out_h, s.out_w)] = from_float<T>(sum);
    }
}

template <typename T> __device__ float blurred_row(const T* x, const Geometry& s, int n, int c, int iy, int left) {
    float sum = 0;
    if (iy < 0 || iy >= s.h) return sum;
    UNROLL
    for (int k = 0; k < BLUR_TAPS; k++) {
        int ix = left + k;
        if (ix >= 0 && ix < s.w) sum += s.tap[k] * to_float(x[offset(s, n, c, iy, ix, s.h, s.w)]);
    }
    return sum;
}

// up = down = 1 with four taps, nearly all of the work: a thread walks down a strip and keeps the last rows in registers.
template <typename T>
__global__ void blur_kernel(const T* __restrict__ x, T* __restrict__ out, const CONSTANT Geometry s, int strips, int count) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        int n, c, strip, ox;
        place(s, i, strips, n, c, strip, ox);
        int oy = strip * STRIP, end = min(oy + STRIP, s.out_h), left = ox - s.pad;
        float a = blurred_row(x, s, n, c, oy - s.pad, left);
        float b = blurred_row(x, s, n, c, oy - s.pad + 1, left);
        float d = blurred_row(x, s, n, c, oy - s.pad + 2, left);
        for (; oy < end; oy++) {
            float e = blurred_row(x, s, n, c, oy - s.pad + 3, left);
            float sum = s.tap[0] * a + s.tap[1] * b + s.tap[2] * d + s.tap[3] * e;
            out[offset(s, n, c, oy, ox, s.out_h, s.out_w)] = from_float<T>(sum);
            a = b; b = d; d = e;
        }
    }
}

int blocks_for(long threads) { return (int)min((threads + THREADS - 1) / THREADS, (long)MAX_BLOCKS); }

template <typename T> void resample(const void* x, void* out, const Geometry& s, void* stream) {
    if (s.up == 1 && s.down == 1 && s.taps == BLUR_TAPS) {
        int strips = (s.out_h + STRIP - 1) / STRIP;
        int count = s.n * s.c * strips * s.out_w;
        LAUNCH(blur_kernel<T>, blocks_for(count), THREADS, stream, (const T*)x, (T*)out, s, strips, count);
    } else {
        int count = s.n * s.c * s.out_h * s.out_w;
        LAUNCH(resample_kernel<T>, blocks_for(count), THREADS, stream, (const T*)x, (T*)out, s, count);
    }
}

template <typename T>
void activate(const void* x, const float* bias, const float* noise, int noise_step, void* y, const Layout& s, float leak, float gain,
              void* stream) {
    bool wide = s.inner % 4 == 0 && ((size_t)x | (size_t)y) % (4 * sizeof(T)) == 0;
    dim3 grid(blocks_for(s.inner / (wide ? 4 : 1)), (unsigned)min(s.outer, 65535));
    if (wide) LAUNCH((act_kernel<T, 4>), grid, THREADS, stream, (const T*)x, bias, noise, noise_step, (T*)y, s, leak, gain);
    else LAUNCH((act_kernel<T, 1>), grid, THREADS, stream, (const T*)x, bias, noise, noise_step, (T*)y, s, leak, gain);
}

template <typename T> void slope(const void* g, const void* y, void* out, long count, float leak, float gain, void* stream) {
    LAUNCH(slope_kernel<T>, blocks_for(count), THREADS, stream, (const T*)g, (const T*)y, (T*)out, count, leak, gain);
}

}  // namespace

// kind: 0 float, 1 half, 2 bfloat16. Each returns CUDA's error code, zero when all is well, and -1 for an unknown kind.
#ifdef __CUDACC__
#define BY_KIND(kind, call) \
    switch (kind) { case 0: call(float); break; case 1: call(Half); break; case 2: call(Brain); break; default: return -1; }
#else
#define BY_KIND(kind, call) \
    switch (kind) { case 0: call(float); break; default: return -1; }
#endif

extern "C" int essence_activate(int kind, const void* x, const float* bias, const float* noise, int noise_step, void* y, int outer,
                                int inner, int channels, int channels_last, float leak, float gain, void* stream) {
    Layout s{outer, inner, channels, channels_last != 0};
#define CALL(T) activate<T>(x, bias, noise, noise_step, y, s, leak, gain, stream)
    BY_KIND(kind, CALL)
#undef CALL
    return STATUS();
}

extern "C" int essence_slope(int kind, const void* g, const void* y, void* out, long count, float leak, float gain, void* stream) {
#define CALL(T) slope<T>(g, y, out, count, leak, gain, stream)
    BY_KIND(kind, CALL)
#undef CALL
    return STATUS();
}

// sizes: n, c, h, w, out_h, out_w, up, down, pad, number of taps, channels_last.
extern "C" int essence_resample(int kind, const void* x, void* out, const int* sizes, const float* taps, void* stream) {
    Geometry s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10] != 0, {}};
    if (s.taps > MAX_TAPS) return -1;
    for (int k = 0; k < s.taps; k++) s.tap[k] = taps[k];
#define CALL(T) resample<T>(x, out, s, stream)
    BY_KIND(kind, CALL)
#undef CALL
    return STATUS();
}
