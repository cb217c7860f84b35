// The operations of StyleGAN2 that PyTorch has no single kernel for. All are bound by memory: each value is read once, written once,
// and computed in float whatever its type, and rounded once. No torch header is needed, so a compiler takes seconds; Python hands in raw pointers (cuda.py).
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
// Neighbouring threads that share a sum.
constexpr int LANES = 32;
__device__ float sum_of_lanes(float x, int lanes) {
    for (int step = lanes / 2; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
#else
#include <algorithm>
#include <cmath>
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
constexpr int LANES = 1;  // threads run in turn, and none waits for another
static float sum_of_lanes(float x, int) { return x; }
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

// ---- a layer of synthesis: what lies between its convolution and the next

// Maps are [pictures, pixels, channels] in memory. y = gain * leaky(scale * conv + noise + bias); the next convolution reads next * y, and
// where there are colours the picture so far is weight . (rgb * y) + rgb_bias + upsampled(below). What an upsampling convolution gave is
// `split`: for each pixel of half the sides the channels of the four pixels that it became, [.., height / 2, width / 2, 4, channels].
struct Synthesis {
    int pictures, height, width, channels, split;
    int row;  // numbers from one picture to the next in scale, next and rgb
    const float *scale, *noise, *bias, *next, *rgb, *rgb_weight;
    float tap[BLUR_TAPS];
    float leak, gain;
};

// One number of the picture below, [height / 2, width / 2], enlarged: two taps of four meet a pixel on each axis.
__device__ float upsampled(const float* below, const Synthesis& s, int y, int x) {
    int h = s.height / 2, w = s.width / 2;
    float sum = 0;
    for (int ky = y % 2; ky < BLUR_TAPS; ky += 2) {
        int iy = (y + ky - 2) / 2;
        if (y + ky < 2 || iy >= h) continue;
        float row = 0;
        for (int kx = x % 2; kx < BLUR_TAPS; kx += 2) {
            int ix = (x + kx - 2) / 2;
            if (x + kx >= 2 && ix < w) row += s.tap[kx] * below[iy * w + ix];
        }
        sum += s.tap[ky] * row;
    }
    return sum;
}

// Where the pixel's channels begin in what the convolution gave, in pixels.
__device__ long place_of(long pixel, const Synthesis& s) {
    if (!s.split) return pixel;
    long y = pixel / s.width, x = pixel % s.width;
    return (y / 2 * (s.width / 2) + x / 2) * 4 + y % 2 * 2 + x % 2;
}

// `lanes` threads for a pixel, each with N channels at a time.
template <typename T, int N, bool COLOURS>
__global__ void synthesis_kernel(const T* __restrict__ conv, T* __restrict__ out, const float* __restrict__ below, const float* rgb_bias,
                                 float* __restrict__ picture, const CONSTANT Synthesis s, int lanes) {
    long pixels = (long)s.height * s.width, count = s.pictures * pixels;
    long first = ((long)blockIdx.x * blockDim.x + threadIdx.x) / lanes, step = (long)gridDim.x * blockDim.x / lanes;
    int lane = threadIdx.x % lanes;
    // All threads of a warp take the same number of turns, because they add up together.
    for (long turn = 0; turn < (count + step - 1) / step; turn++) {
        long at = first + turn * step;
        bool inside = at < count;
        long pixel = inside ? at % pixels : 0;
        long n = inside ? at / pixels : 0, from = n * pixels + place_of(pixel, s);
        float colour[3] = {0, 0, 0}, noise = s.noise[pixel];
        for (int c = lane * N; inside && c < s.channels; c += lanes * N) {
            Pack<T, N> value = *(const Pack<T, N>*)(conv + from * s.channels + c);
            UNROLL
            for (int j = 0; j < N; j++) {
                long k = n * s.row + c + j;
                float sum = to_float(value.v[j]) * s.scale[k] + noise + s.bias[c + j];
                float y = sum * (sum > 0 ? s.gain : s.gain * s.leak);
                if (COLOURS) {
                    float weighed = y * s.rgb[k];
                    UNROLL
                    for (int i = 0; i < 3; i++) colour[i] += weighed * s.rgb_weight[i * s.channels + c + j];
                }
                if (out) value.v[j] = from_float<T>(y * s.next[k]);
            }
            if (out) *(Pack<T, N>*)(out + at * s.channels + c) = value;
        }
        if (COLOURS) {
            UNROLL
            for (int i = 0; i < 3; i++) colour[i] = sum_of_lanes(colour[i], lanes);
            int y = pixel / s.width, x = pixel % s.width;
            for (int i = lane; inside && i < 3; i += lanes) {
                float own = i == 0 ? colour[0] : i == 1 ? colour[1] : colour[2];
                const float* smaller = below + (n * 3 + i) * (pixels / 4);
                picture[(n * 3 + i) * pixels + pixel] = own + rgb_bias[i] + (below ? upsampled(smaller, s, y, x) : 0.f);
            }
        }
    }
}

// The way back. g_out [pictures, pixels, channels] is the gradient of next * y, g_picture [pictures, 3, pixels] that of the picture so far;
// either may be missing. A thread walks down N channels of a tile of pixels and keeps its sums, one for each tile: those of the gradients of
// next, scale and rgb, [pictures, 3, channels, tiles].
template <typename T, int N>
__global__ void synthesis_back_kernel(const T* __restrict__ conv, const T* __restrict__ g_out, const float* __restrict__ g_picture,
                                      T* __restrict__ g_conv, float* __restrict__ sums, const CONSTANT Synthesis s, int tiles, int each) {
    long pixels = (long)s.height * s.width, packs = s.channels / N, count = (long)s.pictures * tiles * packs;
    for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (long)gridDim.x * blockDim.x) {
        int c = i % packs * N, tile = i / packs % tiles;
        long n = i / packs / tiles;
        float scale[N], next[N], rgb[N], bias[N], weight[3][N], for_scale[N], for_next[N], for_rgb[N];
        UNROLL
        for (int j = 0; j < N; j++) {
            long k = n * s.row + c + j;
            scale[j] = s.scale[k]; bias[j] = s.bias[c + j];
            next[j] = g_out ? s.next[k] : 0.f; rgb[j] = g_picture ? s.rgb[k] : 0.f;
            for (int m = 0; m < 3; m++) weight[m][j] = g_picture ? s.rgb_weight[m * s.channels + c + j] : 0.f;
            for_scale[j] = for_next[j] = for_rgb[j] = 0;
        }
        long end = min((long)(tile + 1) * each, pixels);
        for (long pixel = (long)tile * each; pixel < end; pixel++) {
            long at = (n * pixels + pixel) * s.channels + c, from = (n * pixels + place_of(pixel, s)) * s.channels + c;
            Pack<T, N> value = *(const Pack<T, N>*)(conv + from), g, result;
            if (g_out) g = *(const Pack<T, N>*)(g_out + at);
            float noise = s.noise[pixel], colour[3] = {0, 0, 0};
            if (g_picture)
                for (int m = 0; m < 3; m++) colour[m] = g_picture[(n * 3 + m) * pixels + pixel];
            UNROLL
            for (int j = 0; j < N; j++) {
                float x = to_float(value.v[j]), sum = x * scale[j] + noise + bias[j];
                float slope = sum > 0 ? s.gain : s.gain * s.leak, y = sum * slope;
                float along = colour[0] * weight[0][j] + colour[1] * weight[1][j] + colour[2] * weight[2][j];
                float from_next = g_out ? to_float(g.v[j]) : 0.f;
                float g_sum = (from_next * next[j] + along * rgb[j]) * slope;
                for_next[j] += from_next * y;
                for_rgb[j] += along * y;
                for_scale[j] += g_sum * x;
                result.v[j] = from_float<T>(g_sum * scale[j]);
            }
            *(Pack<T, N>*)(g_conv + from) = result;
        }
        UNROLL
        for (int j = 0; j < N; j++) {
            long place = (n * 3 * s.channels + c + j) * tiles + tile, further = (long)s.channels * tiles;
            sums[place] = for_next[j];
            sums[place + further] = for_scale[j];
            sums[place + 2 * further] = for_rgb[j];
        }
    }
}

// Of each layer of a synthesis, where its sums begin and how many tiles they have.
constexpr int MAX_LAYERS = 32;
struct Parts {
    int layers, pictures, row;
    int channels[MAX_LAYERS], tiles[MAX_LAYERS];
    long start[MAX_LAYERS];
};

// Sums over the tiles of every layer, to where they belong: g_styles [layers + colours, pictures, row] and g_scales [layers, pictures, row].
// Layer i's `next` is style i + 1; every other layer has colours.
__global__ void sums_kernel(const float* __restrict__ all, float* g_styles, float* g_scales, const CONSTANT Parts s) {
    int layer = blockIdx.y, channels = s.channels[layer], tiles = s.tiles[layer], lane = threadIdx.x % LANES;
    const float* sums = all + s.start[layer];
    long count = (long)s.pictures * 3 * channels, table = (long)s.pictures * s.row;
    long first = ((long)blockIdx.x * blockDim.x + threadIdx.x) / LANES, step = (long)gridDim.x * blockDim.x / LANES;
    for (long i = first; i < count; i += step) {
        float sum = 0;
        for (int tile = lane; tile < tiles; tile += LANES) sum += sums[i * tiles + tile];
        sum = sum_of_lanes(sum, LANES);
        long c = i % channels, which = i / channels % 3, at = i / channels / 3 * s.row + c;
        if (lane) continue;
        if (which == 0 && layer + 1 < s.layers) g_styles[(layer + 1) * table + at] = sum;
        if (which == 1) g_scales[layer * table + at] = sum;
        if (which == 2 && layer % 2 == 0) g_styles[(s.layers + layer / 2) * table + at] = sum;
    }
}

// ---- a residual sum and the layer norm behind it

// sum = x + branch, where there is one, and out = (sum - mean) / deviation * weight + bias, row by row; stats [rows, 2]: mean and
// 1 / deviation. A warp for a row.
template <typename T>
__global__ void norm_kernel(const float* __restrict__ x, const T* __restrict__ branch, float* __restrict__ sum, T* __restrict__ out,
                            float* __restrict__ stats, const float* __restrict__ weight, const float* __restrict__ bias, long rows,
                            int width, float eps) {
    int lane = threadIdx.x % LANES;
    long first = ((long)blockIdx.x * blockDim.x + threadIdx.x) / LANES, step = (long)gridDim.x * blockDim.x / LANES;
    for (long row = first; row < rows; row += step) {
        long at = row * width;
        float total = 0, square = 0;
        for (int i = lane; i < width; i += LANES) {
            float value = x[at + i] + (branch ? to_float(branch[at + i]) : 0.f);
            sum[at + i] = value;
            total += value;
        }
        float mean = sum_of_lanes(total, LANES) / width;
        for (int i = lane; i < width; i += LANES) square += (sum[at + i] - mean) * (sum[at + i] - mean);
        float inverse = 1.f / sqrtf(sum_of_lanes(square, LANES) / width + eps);
        for (int i = lane; i < width; i += LANES) out[at + i] = from_float<T>((sum[at + i] - mean) * inverse * weight[i] + bias[i]);
        if (lane == 0) { stats[2 * row] = mean; stats[2 * row + 1] = inverse; }
    }
}

// The way back: the gradient of the sum, g_x, from that of `out` and, where there is one, from what else reads the sum; and the same in T
// for the branch, where there is one.
template <typename T>
__global__ void norm_back_kernel(const T* __restrict__ g_out, const float* __restrict__ g_sum, const float* __restrict__ sum,
                                 const float* __restrict__ stats, const float* __restrict__ weight, float* __restrict__ g_x,
                                 T* __restrict__ g_branch, long rows, int width) {
    int lane = threadIdx.x % LANES;
    long first = ((long)blockIdx.x * blockDim.x + threadIdx.x) / LANES, step = (long)gridDim.x * blockDim.x / LANES;
    for (long row = first; row < rows; row += step) {
        long at = row * width;
        float mean = stats[2 * row], inverse = stats[2 * row + 1], plain = 0, along = 0;
        for (int i = lane; i < width; i += LANES) {
            float g = to_float(g_out[at + i]) * weight[i];
            plain += g;
            along += g * (sum[at + i] - mean) * inverse;
        }
        plain = sum_of_lanes(plain, LANES) / width;
        along = sum_of_lanes(along, LANES) / width;
        for (int i = lane; i < width; i += LANES) {
            float g = to_float(g_out[at + i]) * weight[i];
            float whole = inverse * (g - plain - (sum[at + i] - mean) * inverse * along) + (g_sum ? g_sum[at + i] : 0.f);
            g_x[at + i] = whole;
            if (g_branch) g_branch[at + i] = from_float<T>(whole);
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

template <typename T, int N>
void synthesize(const void* conv, void* out, const float* below, const float* rgb_bias, float* picture, const Synthesis& s, void* stream) {
    int lanes = 1;
    while (lanes < LANES && lanes * N < s.channels) lanes *= 2;
    int blocks = blocks_for((long)s.pictures * s.height * s.width * lanes);
    if (picture)
        LAUNCH((synthesis_kernel<T, N, true>), blocks, THREADS, stream, (const T*)conv, (T*)out, below, rgb_bias, picture, s, lanes);
    else LAUNCH((synthesis_kernel<T, N, false>), blocks, THREADS, stream, (const T*)conv, (T*)out, below, rgb_bias, picture, s, lanes);
}

template <typename T, int N>
void synthesize_back(const void* conv, const void* g_out, const float* g_picture, void* g_conv, float* sums, const Synthesis& s, int tiles,
                     int each, void* stream) {
    int blocks = blocks_for((long)s.pictures * tiles * (s.channels / N));
    LAUNCH((synthesis_back_kernel<T, N>), blocks, THREADS, stream, (const T*)conv, (const T*)g_out, g_picture, (T*)g_conv, sums, s, tiles,
           each);
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

// sizes: pictures, height, width, channels, row, split. The taps are those of the blur. next and out, and rgb, rgb_weight, rgb_bias and picture, and below, may be missing.
extern "C" int essence_synthesis(int kind, const void* conv, const float* scale, const float* noise, const float* bias, const float* next,
                                 void* out, const float* rgb, const float* rgb_weight, const float* rgb_bias, const float* below,
                                 float* picture, const int* sizes, const float* taps, float leak, float gain, void* stream) {
    Synthesis s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[5], sizes[4], scale, noise, bias, next, rgb, rgb_weight, {}, leak, gain};
    for (int k = 0; k < BLUR_TAPS; k++) s.tap[k] = taps[k];
#define CALL(T) if (s.channels % 4 == 0) synthesize<T, 4>(conv, out, below, rgb_bias, picture, s, stream); \
                else synthesize<T, 1>(conv, out, below, rgb_bias, picture, s, stream)
    BY_KIND(kind, CALL)
#undef CALL
    return STATUS();
}

extern "C" int essence_synthesis_back(int kind, const void* conv, const float* scale, const float* noise, const float* bias,
                                      const float* next, const void* g_out, const float* rgb, const float* rgb_weight,
                                      const float* g_picture, void* g_conv, float* sums, int tiles, int each, const int* sizes, float leak,
                                      float gain, void* stream) {
    Synthesis s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[5], sizes[4], scale, noise, bias, next, rgb, rgb_weight, {}, leak, gain};
#define CALL(T) if (s.channels % 2 == 0) synthesize_back<T, 2>(conv, g_out, g_picture, g_conv, sums, s, tiles, each, stream); \
                else synthesize_back<T, 1>(conv, g_out, g_picture, g_conv, sums, s, tiles, each, stream)
    BY_KIND(kind, CALL)
#undef CALL
    return STATUS();
}

// sizes: layers, pictures, row, then channels, tiles and the first number of each layer's sums.
extern "C" int essence_synthesis_sums(int, const float* sums, float* g_styles, float* g_scales, const long* sizes, void* stream) {
    Parts s{(int)sizes[0], (int)sizes[1], (int)sizes[2], {}, {}, {}};
    if (s.layers > MAX_LAYERS) return -1;
    long widest = 0;
    for (int i = 0; i < s.layers; i++) {
        s.channels[i] = (int)sizes[3 + 3 * i];
        s.tiles[i] = (int)sizes[4 + 3 * i];
        s.start[i] = sizes[5 + 3 * i];
        widest = widest < s.channels[i] ? s.channels[i] : widest;
    }
    dim3 grid(blocks_for(s.pictures * 3 * widest * LANES), (unsigned)s.layers);
    LAUNCH(sums_kernel, grid, THREADS, stream, sums, g_styles, g_scales, s);
    return STATUS();
}

extern "C" int essence_norm(int kind, const float* x, const void* branch, float* sum, void* out, float* stats, const float* weight,
                            const float* bias, long rows, int width, float eps, void* stream) {
#define CALL(T) LAUNCH(norm_kernel<T>, blocks_for(rows * LANES), THREADS, stream, x, (const T*)branch, sum, (T*)out, stats, weight, bias, \
                       rows, width, eps)
    BY_KIND(kind, CALL)
#undef CALL
    return STATUS();
}

extern "C" int essence_norm_back(int kind, const void* g_out, const float* g_sum, const float* sum, const float* stats,
                                 const float* weight, float* g_x, void* g_branch, long rows, int width, void* stream) {
#define CALL(T) LAUNCH(norm_back_kernel<T>, blocks_for(rows * LANES), THREADS, stream, (const T*)g_out, g_sum, sum, stats, weight, g_x, \
                       (T*)g_branch, rows, width)
    BY_KIND(kind, CALL)
#undef CALL
    return STATUS();
}
