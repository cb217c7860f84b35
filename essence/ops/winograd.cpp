// One layer of StyleGAN2 on a processor, or of a plain network, there and back, each in one pass over its maps:
//
//     y = gain * leaky_relu(scale * conv(style * x) + noise + bias, leak)
//
// The convolutions are Winograd's (Lavin and Gray, arXiv 1509.09308): of each tile of pixels a linear map makes a number of points, at each
// point the channels are multiplied by a matrix, and another linear map makes pixels of the products. A flat layer takes 36 points for 4x4
// pixels, there and back, where the definition multiplies 144 times; an upsampling layer (a transposed convolution with stride 2, then a blur)
// takes 81 for 4x4 coarse pixels, where the definition takes 144 too. `winograd.py` makes the matrices.
//
// Feature maps are float32 [picture, row, column, channel]. Nothing but a C++ compiler with OpenMP is needed; Python hands in pointers.

#include <cstdint>
#include <cstdlib>

namespace {

typedef float Floats __attribute__((vector_size(32), aligned(4)));  // eight channels
typedef float Half __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(32), aligned(4)));

constexpr int WIDE = 8;       // channels that are computed at once
constexpr int TILE = 4;       // side of a tile in coarse pixels
constexpr int MATRICES = 36;  // to multiply the channels by
constexpr int PANEL = 16;     // columns of a product that stay in registers, for up to ROWS rows
constexpr int ROWS = 6;
constexpr int CHUNK = 64;  // output channels between two transforms
constexpr int COLOURS = 3;

Floats load(const float* p) { return *(const Floats*)p; }
void store(float* p, Floats v) { *(Floats*)p = v; }
Floats all(float f) { return Floats{} + f; }

constexpr float OUTER = 0.25f, INNER = 0.75f;  // the blur of every StyleGAN2, along one axis
Floats blurred(const Floats d[4]) { return OUTER * (d[0] + d[3]) + INNER * (d[1] + d[2]); }

// `if_up` where y > 0, else `if_down`.
Floats by_sign(Floats y, float if_up, float if_down) {
    Bits up = y > Floats{};
    return (Floats)(((Bits)all(if_up) & up) | ((Bits)all(if_down) & ~up));
}

}  // namespace

// Forward: x [pictures, height, width, in] to y with `out` channels. Backward: x is y's gradient, `in` its channels, `out` the input's.
// `fold` is 2 for an upsampling layer, whose y has twice the height and width, else 1.
struct Layer {
    float leak, gain;
    long pictures, height, width, in, out, fold, threads;
    const float *x, *weights;     // weights [MATRICES][out / PANEL][in][PANEL]
    const float *before, *after;  // [pictures, channels]: factors of the input's channels and of the output's
    const float *noise, *bias;    // of the fine picture [rows, columns], and [channels]
    float* result;
    // Backward alone: what came out of the layer, and went in; factors [pictures, COLOURS, in] by which colours were made of the former, if
    // they were, and the gradient of these, [pictures, COLOURS, height, width]. x is null where nothing else was made of it.
    const float *y, *input, *factors, *colours;
    // Sums for each tile, null where nobody asks: of g * (scale * conv) [tiles, in], g * input [tiles, out] and colours * y [tiles, COLOURS, in].
    float *in_sums, *out_sums, *factor_sums;
};

namespace {

struct Tile { long index, picture, top, left; };  // of the coarse picture

// Along one axis: READ pixels to POINTS, of which those from the sixth on share a matrix, and products to WRITTEN pixels; FOLD fine pixels
// to a coarse one in what is read; one tile more than cover the picture where EXTRA says so.

// A flat convolution. (Points 0, 1, -1, 2, -2, infinity.)
struct Flat {
    static constexpr int READ = 6, POINTS = 6, WRITTEN = 4, FOLD = 1, EXTRA = 0;

    static void to_points(const Floats d[READ], Floats* t, int step) {
        Floats a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
        t[0] = 4 * d[0] - 5 * d[2] + d[4];
        t[step] = a + b;
        t[2 * step] = a - b;
        t[3 * step] = c + e;
        t[4 * step] = c - e;
        t[5 * step] = 4 * d[1] - 5 * d[3] + d[5];
    }
    static void from_points(const Floats m[POINTS], Floats* y, int step) {
        Floats a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
        y[0] = m[0] + a + c;
        y[step] = b + 2 * e;
        y[2 * step] = a + 4 * c;
        y[3 * step] = b + 8 * e + m[5];
    }
};

// A convolution with two weights, five pixels `apart` to four, by five points (0, 1, -1, 1/2, infinity).
void to_points_of_two(const Floats* d, int apart, Floats* t, int step) {
    Floats a = d[3 * apart] - d[apart];
    t[0] = 0.5f * (d[0] - d[2 * apart]) + a;
    t[step] = d[3 * apart] + 0.5f * (d[2 * apart] - d[apart]);
    t[2 * step] = d[3 * apart] - 1.5f * d[2 * apart] + 0.5f * d[apart];
    t[3 * step] = a;
    t[4 * step] = d[4 * apart] - d[2 * apart] - 0.5f * a;
}

void from_points_of_two(const Floats m[5], Floats y[TILE]) {
    Floats a = m[1] + m[2], b = m[1] - m[2];
    y[0] = m[0] + a + m[3];
    y[1] = b + 0.5f * m[3];
    y[2] = a + 0.25f * m[3];
    y[3] = b + 0.125f * m[3] + m[4];
}

// A transposed convolution with stride 2: the even pixels are w2 x[i - 1] + w0 x[i], the odd ones w1 x[i].
struct Up {
    static constexpr int READ = 5, POINTS = 9, WRITTEN = 8, FOLD = 1, EXTRA = 1;

    static void to_points(const Floats d[READ], Floats* t, int step) {
        to_points_of_two(d, 1, t, step);
        for (int i = 0; i < TILE; i++) t[(5 + i) * step] = d[1 + i];
    }
    static void from_points(const Floats m[POINTS], Floats* y, int step) {
        Floats even[TILE];
        from_points_of_two(m, even);
        for (int i = 0; i < TILE; i++) y[2 * i * step] = even[i], y[(2 * i + 1) * step] = m[5 + i];
    }
};

// Back through the blur to nine pixels r, and through the transposed convolution: w0 r[2i] + w1 r[2i + 1] + w2 r[2i + 2].
struct Down {
    static constexpr int READ = 12, POINTS = 9, WRITTEN = 4, FOLD = 2, EXTRA = 0;

    static void to_points(const Floats d[READ], Floats* t, int step) {
        Floats r[POINTS];
        for (int i = 0; i < POINTS; i++) r[i] = blurred(d + i);
        to_points_of_two(r, 2, t, step);
        for (int i = 0; i < TILE; i++) t[(5 + i) * step] = r[2 * i + 1];
    }
    static void from_points(const Floats m[POINTS], Floats* y, int step) {
        Floats even[TILE];
        from_points_of_two(m, even);
        for (int i = 0; i < TILE; i++) y[i * step] = even[i] + m[5 + i];
    }
};

// Rows `begin` to `end` of the tiles of some pictures. An extra column of tiles on the right, and an extra row at the bottom, see one line of
// pixels: all of their points but the first along that axis are zero. They come last, the column's before the row's.
struct Tiles {
    long down, across;           // of a picture, with the extra ones
    long whole_down, whole_across;
    long picture, pictures, begin, end;

    template <class Scheme> static Tiles of(const Layer& l) {
        Tiles t{side(l.height + Scheme::EXTRA), side(l.width + Scheme::EXTRA), side(l.height), side(l.width), 0, l.pictures, 0, 0};
        t.end = t.down;
        return t;
    }
    long count() const { return pictures * (end - begin) * across; }
    long whole() const { return pictures * rows() * whole_across; }
    long beside() const { return pictures * rows() * (across - whole_across); }
    Tile at(long i) const {
        long row = begin, column = 0, high = rows(), wide = whole_across;
        if (i >= whole() + beside()) i -= whole() + beside(), row = whole_down, high = end - whole_down, wide = across;
        else if (i >= whole()) i -= whole(), column = whole_across, wide = across - whole_across;
        long of = picture + i / (high * wide);
        row += i / wide % high, column += i % wide;
        return {(of * down + row) * across + column, of, row * TILE, column * TILE};
    }

  private:
    static long side(long pixels) { return (pixels + TILE - 1) / TILE; }
    long rows() const { return (end < whole_down ? end : whole_down) - begin; }
};

void clear(float* values, long count) {
    for (long i = 0; i < count; i++) values[i] = 0;
}

// A tile's pixels times the factors of their channels, [READ * READ][in], zero outside of the picture.
template <class Scheme> void fetch(const Layer& l, Tile tile, float* pixels) {
    const float* factor = l.before + tile.picture * l.in;
    for (int i = 0; i < Scheme::READ; i++)
        for (int j = 0; j < Scheme::READ; j++, pixels += l.in) {
            const long row = tile.top - 1 + i, column = tile.left - 1 + j;
            if (row < 0 || column < 0 || row >= l.height || column >= l.width) {
                clear(pixels, l.in);
                continue;
            }
            const float* x = l.x + ((tile.picture * l.height + row) * l.width + column) * l.in;
            for (long c = 0; c < l.in; c += WIDE) store(pixels + c, load(x + c) * load(factor + c));
        }
}

// The same of a gradient; what came out of the layer is slope * (scale * conv + noise + bias). `sum_up`: the tile's sums too.
template <class Scheme, bool COLOURED> void fetch_back(const Layer& l, Tile tile, float* pixels, bool sum_up) {
    constexpr int EDGE = Scheme::FOLD, END = Scheme::READ - EDGE;
    const long top = (tile.top - 1) * EDGE, left = (tile.left - 1) * EDGE, height = l.height * EDGE, width = l.width * EDGE;
    const float *scale = l.before + tile.picture * l.in, *factors = COLOURED ? l.factors + tile.picture * COLOURS * l.in : nullptr;
    float *sums = sum_up && l.in_sums ? l.in_sums + tile.index * l.in : nullptr;
    float *factor_sums = COLOURED && sum_up && l.factor_sums ? l.factor_sums + tile.index * COLOURS * l.in : nullptr;
    if (sums) clear(sums, l.in);
    if (factor_sums) clear(factor_sums, COLOURS * l.in);
    for (int i = 0; i < Scheme::READ; i++)
        for (int j = 0; j < Scheme::READ; j++, pixels += l.in) {
            const long row = top + i, column = left + j, at = (tile.picture * height + row) * width + column;
            if (row < 0 || column < 0 || row >= height || column >= width) {
                clear(pixels, l.in);
                continue;
            }
            const bool inner = i >= EDGE && i < END && j >= EDGE && j < END;  // each pixel belongs to one tile's inner part
            const Floats noise = all(l.noise[row * width + column]);
            Floats colour[COLOURS];
            for (int k = 0; COLOURED && k < COLOURS; k++)
                colour[k] = all(l.colours[((tile.picture * COLOURS + k) * height + row) * width + column]);
            for (long c = 0; c < l.in; c += WIDE) {
                const Floats y = load(l.y + at * l.in + c);
                Floats g = !COLOURED || l.x ? load(l.x + at * l.in + c) : Floats{};
                for (int k = 0; COLOURED && k < COLOURS; k++) {
                    g += colour[k] * load(factors + k * l.in + c);
                    if (inner && factor_sums) store(factor_sums + k * l.in + c, load(factor_sums + k * l.in + c) + colour[k] * y);
                }
                const Floats sloped = g * by_sign(y, l.gain, l.gain * l.leak);
                store(pixels + c, sloped * load(scale + c));
                if (inner && sums) store(sums + c, load(sums + c) + g * y - sloped * (load(l.bias + c) + noise));
            }
        }
}

// Eight channels of a tile to its points, `step` apart.
template <class Scheme> void transform(const float* pixels, long channels, float* points, long step) {
    constexpr int READ = Scheme::READ, POINTS = Scheme::POINTS;
    Floats t[POINTS * READ];
    for (int j = 0; j < READ; j++) {
        Floats d[READ];
        for (int i = 0; i < READ; i++) d[i] = load(pixels + (READ * i + j) * channels);
        Scheme::to_points(d, t + j, READ);
    }
    for (int i = 0; i < POINTS; i++) {
        Floats p[POINTS];
        Scheme::to_points(t + READ * i, p, 1);
        for (int j = 0; j < POINTS; j++) store(points + (POINTS * i + j) * step, p[j]);
    }
}

template <class Scheme, bool BACKWARD> void read_tile(const Layer& l, Tile tile, float* pixels, float* points, long step, bool sum_up) {
    if constexpr (!BACKWARD) fetch<Scheme>(l, tile, pixels);
    else if (l.colours) fetch_back<Scheme, true>(l, tile, pixels, sum_up);
    else fetch_back<Scheme, false>(l, tile, pixels, sum_up);
    for (long c = 0; c < l.in; c += WIDE) transform<Scheme>(pixels + c, l.in, points + c, step);
}

// Eight channels of a tile from the products, `step` apart.
template <class Scheme> void untransform(const float* products, long step, Floats* pixels) {
    constexpr int POINTS = Scheme::POINTS, WRITTEN = Scheme::WRITTEN;
    Floats t[WRITTEN * POINTS];
    for (int j = 0; j < POINTS; j++) {
        Floats m[POINTS];
        for (int i = 0; i < POINTS; i++) m[i] = load(products + (POINTS * i + j) * step);
        Scheme::from_points(m, t + j, POINTS);
    }
    for (int i = 0; i < WRITTEN; i++) Scheme::from_points(t + POINTS * i, pixels + WRITTEN * i, 1);
}

Floats activated(const Layer& l, Floats sum) { return sum * by_sign(sum, l.gain, l.gain * l.leak); }

// Output channels from `first` to `end` of a tile; `products` begins with the first of them.
template <class Scheme, bool BACKWARD> void write_tile(const Layer& l, Tile tile, const float* products, long step, long first, long end) {
    for (long c = first; c < end; c += WIDE, products += WIDE) {
        Floats v[TILE * TILE], sum = {};
        untransform<Scheme>(products, step, v);
        const Floats factor = load(l.after + tile.picture * l.out + c), bias = BACKWARD ? Floats{} : load(l.bias + c);
        for (int k = 0; k < TILE * TILE; k++) {
            long row = tile.top + k / TILE, column = tile.left + k % TILE;
            if (row >= l.height || column >= l.width) continue;
            long at = ((tile.picture * l.height + row) * l.width + column) * l.out + c;
            if (BACKWARD && l.out_sums) sum += v[k] * load(l.input + at);
            store(l.result + at, BACKWARD ? v[k] * factor : activated(l, v[k] * factor + bias + l.noise[row * l.width + column]));
        }
        if (BACKWARD && l.out_sums) store(l.out_sums + tile.index * l.out + c, sum);
    }
}

// c [R, PANEL] = a [R, inner] b [inner, PANEL]; rows of a lie `inner` apart, those of c `stride`.
template <int R> void multiply(const float* a, const float* b, float* c, long inner, long stride) {
    Floats sum[R][2] = {};
    for (long k = 0; k < inner; k++, b += PANEL) {
        Floats left = load(b), right = load(b + WIDE);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            sum[r][0] += a[r * inner + k] * left;
            sum[r][1] += a[r * inner + k] * right;
        }
    }
    for (int r = 0; r < R; r++) {
        store(c + r * stride, sum[r][0]);
        store(c + r * stride + WIDE, sum[r][1]);
    }
}

void multiply(long rows, const float* a, const float* b, float* c, long inner, long stride) {
    for (; rows >= ROWS; rows -= ROWS, a += ROWS * inner, c += ROWS * stride) multiply<ROWS>(a, b, c, inner, stride);
    switch (rows) {
        case 5: return multiply<5>(a, b, c, inner, stride);
        case 4: return multiply<4>(a, b, c, inner, stride);
        case 3: return multiply<3>(a, b, c, inner, stride);
        case 2: return multiply<2>(a, b, c, inner, stride);
        case 1: return multiply<1>(a, b, c, inner, stride);
    }
}

// Points of some tiles by the matrices of `width` output channels from `first` on. `whole` of the tiles have all points, `beside` more the
// first column's, the rest the first row's.
struct Counts { long whole, beside, all; };

template <class Scheme>
void multiply_points(const Layer& l, const float* points, long in_step, float* products, long out_step, Counts tiles, long first, long width) {
    constexpr int POINTS = Scheme::POINTS, SHARED = 5;  // the first of the points that share a matrix
    for (int matrix = 0; matrix < MATRICES; matrix++) {
        int a = matrix / 6, b = matrix % 6, rows = a == SHARED ? POINTS : a + 1, columns = b == SHARED ? POINTS : b + 1;
        long count = a == 0 ? tiles.all : b == 0 ? tiles.whole + tiles.beside : tiles.whole;
        for (long n = 0; n < width; n += PANEL)
            for (int i = a; i < rows; i++)
                for (int j = b; j < columns; j++) {
                    long k = i * POINTS + j;
                    float* to = products + k * out_step + n;
                    multiply(count, points + k * in_step, l.weights + (matrix * l.out + first + n) * l.in, to, l.in, CHUNK);
                    for (long t = count; t < tiles.all; t++) store(to + t * CHUNK, Floats{}), store(to + t * CHUNK + WIDE, Floats{});
                }
    }
}

// Floats between the tables of two points: an odd number of cache lines, so that the points do not displace each other.
long apart(long floats) { return (floats / PANEL | 1) * PANEL; }

float* floats(long count) { return (float*)aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64); }

long between(long low, long value, long high) { return value < low ? low : value < high ? value : high; }

// By all threads of a team: tiles read, multiplied, and given to `write` by some output channels at a time.
template <class Scheme, bool BACKWARD, class Write> void convolve(const Layer& l, const Tiles& tiles, Write write) {
    constexpr int POINTS = Scheme::POINTS * Scheme::POINTS;
    // Tiles whose points stay in the caches; more of them where the matrices do not, so that these are fetched less often.
    const long block = l.in >= 512 ? 24 : 12;
    const long blocks = (tiles.count() + block - 1) / block, chunks = (l.out + CHUNK - 1) / CHUNK, wanted = 2 * l.threads;
    // Small pictures have too few blocks for all threads: then several share a block, each with some of the chunks.
    const long sharing = blocks >= wanted ? 1 : between(1, wanted / blocks, chunks);
    const long in_step = apart(block * l.in), out_step = apart(block * CHUNK);
    float *pixels = floats(Scheme::READ * Scheme::READ * l.in), *points = floats(POINTS * in_step), *products = floats(POINTS * out_step);
#pragma omp for schedule(dynamic)
    for (long item = 0; item < blocks * sharing; item++) {
        const long first = item / sharing * block, share = item % sharing, count = between(0, tiles.count() - first, block);
        const long whole = between(0, tiles.whole() - first, count), beside = between(0, tiles.whole() + tiles.beside() - first, count) - whole;
        for (long t = 0; t < count; t++) read_tile<Scheme, BACKWARD>(l, tiles.at(first + t), pixels, points + t * l.in, in_step, share == 0);
        for (long chunk = share; chunk < chunks; chunk += sharing) {
            const long from = chunk * CHUNK, to = between(0, from + CHUNK, l.out);
            multiply_points<Scheme>(l, points, in_step, products, out_step, {whole, beside, count}, from, to - from);
            for (long t = 0; t < count; t++) write(tiles.at(first + t), products + t * CHUNK, out_step, from, to);
        }
    }
    free(pixels);
    free(points);
    free(products);
}

template <class Scheme, bool BACKWARD> void run(const Layer& l) {
#pragma omp parallel num_threads(l.threads)
    convolve<Scheme, BACKWARD>(l, Tiles::of<Scheme>(l), [&](Tile tile, const float* products, long step, long from, long to) {
        write_tile<Scheme, BACKWARD>(l, tile, products, step, from, to);
    });
}

// An upsampling layer's map, made in bands: what the transposed convolution makes of some rows of tiles in some pictures, then the blur and the
// rest of the layer for the rows that are complete. [many, BEFORE + FINE * deep, 1 + FINE * across, out]: above are the last rows of the band
// before this one, on the left a column of black; right of the picture and below it the convolution has made black.
struct Band {
    static constexpr int BEFORE = 3, FINE = Up::WRITTEN;
    static constexpr long ENOUGH = 1 << 20, TILES = 256;  // floats that stay in the caches; tiles for which to fetch the matrices

    const Layer& l;
    Tiles tiles = Tiles::of<Up>(l);
    const long row = (1 + FINE * tiles.across) * l.out;
    const long size = between(TILES * FINE * FINE * l.out, ENOUGH, ENOUGH);
    const long deep = between(1, size / (FINE * row), tiles.down);
    const long many = deep < tiles.down ? 1 : between(1, size / (FINE * row * deep), l.pictures);
    const long rows = BEFORE + FINE * deep;
    float* const raw = floats(many * rows * row);

    float* at(long of, long fine) const { return raw + ((of - tiles.picture) * rows + fine - FINE * tiles.begin + BEFORE) * row; }

    // By all threads of a team, each with a band of its own, and `line`, room for a row.
    void make(float* line) {
        for (tiles.picture = 0; tiles.picture < l.pictures; tiles.picture += many)
            for (tiles.begin = 0; tiles.begin < tiles.down; tiles.begin += deep) {
                tiles.pictures = between(1, l.pictures - tiles.picture, many), tiles.end = between(0, tiles.begin + deep, tiles.down);
                advance(line);
            }
    }

    void advance(float* line) const {
        const long from = tiles.begin ? FINE * tiles.begin - 2 : 0, to = tiles.end < tiles.down ? FINE * tiles.end - 2 : 2 * l.height;  // complete
#pragma omp for
        for (long i = 0; i < tiles.pictures * rows; i++)
            for (long c = 0; c < (i % rows < BEFORE ? row : l.out); c += WIDE)
                store(raw + i * row + c, tiles.begin && i < BEFORE ? load(raw + (i + FINE * deep) * row + c) : Floats{});
        convolve<Up, false>(l, tiles, [this](Tile tile, const float* products, long step, long first, long last) {
            write(tile, products, step, first, last);
        });
#pragma omp for
        for (long i = 0; i < tiles.pictures * (to - from); i++) finish(tiles.picture + i / (to - from), from + i % (to - from), line);
    }

    void write(Tile tile, const float* products, long step, long first, long last) const {
        for (long c = first; c < last; c += WIDE, products += WIDE) {
            Floats v[FINE * FINE];
            untransform<Up>(products, step, v);
            float* to = at(tile.picture, 2 * tile.top) + (1 + 2 * tile.left) * l.out + c;
            for (int i = 0; i < FINE; i++)
                for (int j = 0; j < FINE; j++) store(to + i * row + j * l.out, v[FINE * i + j]);
        }
    }

    // One row of the layer's map: blurred down, then across.
    void finish(long of, long fine, float* line) const {
        const float* upper = at(of, fine - 1);
        for (long i = 0; i < row; i += WIDE) {
            Floats four[4];
            for (int k = 0; k < 4; k++) four[k] = load(upper + k * row + i);
            store(line + i, blurred(four));
        }
        const float *factor = l.after + of * l.out, *noise = l.noise + fine * 2 * l.width;
        float* result = l.result + (of * 2 * l.height + fine) * 2 * l.width * l.out;
        for (long column = 0; column < 2 * l.width; column++, line += l.out, result += l.out)
            for (long c = 0; c < l.out; c += WIDE) {
                Floats four[4];
                for (int k = 0; k < 4; k++) four[k] = load(line + k * l.out + c);
                store(result + c, activated(l, blurred(four) * load(factor + c) + load(l.bias + c) + noise[column]));
            }
    }
};

void run_up(const Layer& l) {
    const Band whole{l};
#pragma omp parallel num_threads(l.threads)
    {
        Band band = whole;
        float* line = floats(band.row);
        band.make(line);
        free(line);
    }
    free(whole.raw);
}

float sum(const Floats& v) {
    Half half = *(const Half*)&v + *((const Half*)&v + 1);
    return (half[0] + half[2]) + (half[1] + half[3]);
}

}  // namespace

// The picture so far: in each pixel's three colours a sum over its channels, a bias, and what a picture of half the side, if there is one,
// shows there, blurred. Maps as above, pictures [pictures, COLOURS, height, width]. Backward, from g, the picture's gradient, to that of the
// smaller picture alone: the map's is taken along by the layer that made it.
struct Picture {
    long pictures, height, width, channels, threads;
    const float *x, *factors, *bias, *below;  // the map; [pictures, COLOURS, channels]; [COLOURS]; the smaller picture, or null
    const float* g;
    float* result;
};

namespace {

// Row `row` of what the smaller picture shows, from the bias on.
void enlarge(const Picture& p, long picture, int k, long row, float* result) {
    const long half = p.width / 2, last = p.height / 2 - 1, upper = (row + 1) / 2 - 1, lower = upper + 1;  // its rows there
    const float* below = p.below + (picture * COLOURS + k) * (p.height / 2) * half;
    const float of_upper = upper < 0 ? 0 : row % 2 ? INNER : OUTER, of_lower = lower > last ? 0 : row % 2 ? OUTER : INNER;
    float line[half + 2];  // both as one, black at its ends
    line[0] = line[half + 1] = 0;
    for (long i = 0; i < half; i++)
        line[i + 1] = of_upper * below[between(0, upper, last) * half + i] + of_lower * below[between(0, lower, last) * half + i];
    for (long i = 0; i < half; i++) {
        result[2 * i] = p.bias[k] + OUTER * line[i] + INNER * line[i + 1];
        result[2 * i + 1] = p.bias[k] + INNER * line[i + 1] + OUTER * line[i + 2];
    }
}

void mix(const Picture& p, long picture, long row) {
    const float *x = p.x + (picture * p.height + row) * p.width * p.channels, *f = p.factors + picture * COLOURS * p.channels;
    float* result[COLOURS];
    for (int k = 0; k < COLOURS; k++) {
        result[k] = p.result + ((picture * COLOURS + k) * p.height + row) * p.width;
        for (long column = 0; !p.below && column < p.width; column++) result[k][column] = p.bias[k];
        if (p.below) enlarge(p, picture, k, row, result[k]);
    }
    for (long column = 0; column < p.width; column++, x += p.channels) {
        Floats total[COLOURS] = {};
        for (long c = 0; c < p.channels; c += WIDE)
            for (int k = 0; k < COLOURS; k++) total[k] += load(x + c) * load(f + k * p.channels + c);
        for (int k = 0; k < COLOURS; k++) result[k][column] += sum(total[k]);
    }
}

void shrink(const Picture& p, long picture, long row) {
    const float taps[4] = {OUTER, INNER, INNER, OUTER};
    for (int k = 0; k < COLOURS; k++)
        for (long column = 0; column < p.width / 2; column++) {
            float value = 0;
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    long y = 2 * row - 1 + i, x = 2 * column - 1 + j;
                    if (y < 0 || x < 0 || y >= p.height || x >= p.width) continue;
                    value += taps[i] * taps[j] * p.g[((picture * COLOURS + k) * p.height + y) * p.width + x];
                }
            p.result[((picture * COLOURS + k) * (p.height / 2) + row) * (p.width / 2) + column] = value;
        }
}

template <typename Work> void for_rows(const Picture& p, long height, Work work) {
#pragma omp parallel for num_threads(p.threads)
    for (long i = 0; i < p.pictures * height; i++) work(p, i / height, i % height);
}

}  // namespace

extern "C" void essence_styled(const Layer* l) { l->fold == 2 ? run_up(*l) : run<Flat, false>(*l); }
extern "C" void essence_styled_back(const Layer* l) { l->fold == 2 ? run<Down, true>(*l) : run<Flat, true>(*l); }
extern "C" void essence_picture(const Picture* p) { for_rows(*p, p->height, mix); }
extern "C" void essence_picture_back(const Picture* p) { for_rows(*p, p->height / 2, shrink); }
