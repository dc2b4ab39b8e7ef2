// Products that XLA does not make fast on a CPU, as functions it calls. Compiled and registered by matmul.py.
//   narrow: y = x w in bfloat16 with float32 sums, on the CPU's matrix units (AMX) or by its vectors
//   coded:  y = x w^T scale, the weights in 8 bits, which are widened where they are multiplied

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstring>

#include "tiles.h"

Kind kind = Kind::kNone;

namespace {

#ifdef __AVX512BF16__
constexpr int kBand = 96, kCut = 1024;  // rows of x and columns of w that are laid out at once, as tiles read them,
constexpr int kDeep = 128;              // by so many pairs of the summed axis: what is laid out of w stays in the second cache

// y = x w; `inner` is even.
template <typename Tile>
void product(const Tile& tile, bool turn_x, bool turn_w, int64_t rows, int64_t cols, int64_t inner, const uint16_t* x, int64_t x_stride,
             const uint16_t* w, int64_t w_stride, float* y, int64_t y_stride) {
  static thread_local std::vector<__m512i> left(kBand * kDeep / 16), right((kCut / 16 + Tile::kWide) * kDeep);
  for (int64_t col = 0; col < cols; col += kCut)
    for (int64_t k = 0; k < inner / 2; k += kDeep) {
      const int64_t wide = std::min<int64_t>(kCut, cols - col), pairs = std::min<int64_t>(kDeep, inner / 2 - k);
      lay_columns(w + (turn_w ? col * w_stride + 2 * k : 2 * k * w_stride + col), w_stride, turn_w, wide, pairs, right.data(), kDeep);
      for (int64_t row = 0; row < rows; row += kBand) {
        const int64_t tall = std::min<int64_t>(kBand, rows - row);
        lay_rows(x + (turn_x ? 2 * k * x_stride + row : row * x_stride + 2 * k), x_stride, !turn_x, tall, pairs, (Pair*)left.data(), kDeep);
        multiply(tile, tall, wide, pairs, (const Pair*)left.data(), kDeep, right.data(), kDeep, y + row * y_stride + col, y_stride, k > 0);
      }
    }
}
#endif

// The longer side is cut.
ffi::Error Narrow(ffi::ThreadPool pool, ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> w, ffi::ResultBuffer<ffi::F32> y,
                  bool turn_x, bool turn_w) {
  if (kind == Kind::kNone) return refused();
  const auto x_shape = x.dimensions(), w_shape = w.dimensions(), y_shape = y->dimensions();
  const int rows = y_shape[0], cols = y_shape[1], inner = x_shape[turn_x ? 0 : 1], x_stride = x_shape[1], w_stride = w_shape[1];
  const uint16_t *left = begin(x), *right = begin(w);
  float* out = y->typed_data();
  const bool by_rows = rows >= cols;
  const int size = by_rows ? rows : cols, step = share(pool, double(rows) * cols * inner, size, kTile);
  in_parts(pool, size, step, [=](int64_t first) {
    const int count = std::min<int64_t>(step, size - first);
    with_tiles([&](const auto& tile) {
      if (by_rows) product(tile, turn_x, turn_w, count, cols, inner, left + first * (turn_x ? 1 : x_stride), x_stride, right, w_stride, out + first * cols, cols);
      else product(tile, turn_x, turn_w, rows, count, inner, left, x_stride, right + first * (turn_w ? w_stride : 1), w_stride, out + first, cols);
    });
  });
  return ffi::Error::Success();
}

// The second cache asks memory for what is 16 kB ahead. The first can wait for few lines at once, and by itself the processor foresees a
// column's next numbers, but not the next column.
inline void foresee(const int8_t* codes) { __builtin_prefetch(codes + 16384, 0, 2); }

#ifdef __AVX512VNNI__
constexpr int kStep = 64, kRows = 4, kCols = 3;  // numbers multiplied at once; rows and columns whose sums fit the registers
constexpr int kBase = 128, kLargest = 127 * kBase + 63, kLongest = 16384;

typedef int32_t Sums __attribute__((vector_size(64)));

// Rows of x as whole numbers of two digits of 8 bits, x = unit (128 high + low), each to a part in 32,638 of its row's largest. A number of y
// is their products with the weights, summed exactly. The instruction wants one side without a sign, so weights are 128 too large
// there, and what that adds is taken off again.
struct Rows {
  int inner, stride;
  std::vector<int8_t> high, low;
  std::vector<float> unit;
  std::vector<int32_t> extra;  // of each row and lane

  Rows(const float* x, int rows, int inner)
      : inner(inner), stride((inner + kStep - 1) / kStep * kStep), high(int64_t{rows} * stride), low(high.size()), unit(rows), extra(rows * 16) {
    for (int r = 0; r < rows; ++r, x += inner) {
      __m512 most = _mm512_setzero_ps();
      for (int k = 0; k < inner; k += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + k)));
      const float largest = _mm512_reduce_max_ps(most);
      unit[r] = largest > 0 ? largest / kLargest : 1;
      const __m512 each = _mm512_set1_ps(1 / unit[r]);
      for (int k = 0; k < inner; k += 16) {
        const __m512i number = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + k), each));
        const __m512i digit = _mm512_srai_epi32(_mm512_add_epi32(number, _mm512_set1_epi32(kBase / 2)), 7);
        const int64_t to = int64_t{r} * stride + k;
        _mm_storeu_si128((__m128i*)&high[to], _mm512_cvtepi32_epi8(digit));
        _mm_storeu_si128((__m128i*)&low[to], _mm512_cvtepi32_epi8(_mm512_sub_epi32(number, _mm512_slli_epi32(digit, 7))));
      }
      // 128 of every number in its lane.
      __m512i twos = _mm512_setzero_si512(), ones = twos;
      for (int k = 0; k < stride; k += kStep) {
        const int64_t from = int64_t{r} * stride + k;
        twos = _mm512_dpbusd_epi32(twos, _mm512_set1_epi8(-128), _mm512_loadu_si512(&high[from]));
        ones = _mm512_dpbusd_epi32(ones, _mm512_set1_epi8(-128), _mm512_loadu_si512(&low[from]));
      }
      _mm512_storeu_si512(&extra[r * 16], _mm512_add_epi32(_mm512_slli_epi32(twos, 7), ones));
    }
  }
};

// R rows by C columns. Whatever R and C, a row is the same in any batch. Unless its loops are unrolled first, GCC stores all sums at every
// turn, which takes as long as the products.
template <int R, int C>
inline void block(const Rows& x, int row, const int8_t* codes, const float* scale, float* y, int cols) {
  Sums high[R][C] = {}, low[R][C] = {};
  const int8_t *highs = &x.high[int64_t{row} * x.stride], *lows = &x.low[int64_t{row} * x.stride];
  for (int k = 0; k < x.inner; k += kStep) {
    const __mmask64 inside = ~__mmask64{0} >> (kStep - std::min(kStep, x.inner - k));
    __m512i w[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      foresee(codes + int64_t{c} * x.inner + k);
      w[c] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(inside, codes + int64_t{c} * x.inner + k), _mm512_set1_epi8(-128));
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512i h = _mm512_loadu_si512(highs + int64_t{r} * x.stride + k), l = _mm512_loadu_si512(lows + int64_t{r} * x.stride + k);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        high[r][c] = (Sums)_mm512_dpbusd_epi32((__m512i)high[r][c], w[c], h);
        low[r][c] = (Sums)_mm512_dpbusd_epi32((__m512i)low[r][c], w[c], l);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const __m512i extra = _mm512_loadu_si512(&x.extra[(row + r) * 16]);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const Sums sums = kBase * high[r][c] + low[r][c] - (Sums)extra;
      y[int64_t{row + r} * cols + c] = _mm512_reduce_add_ps(_mm512_cvtepi32_ps((__m512i)sums)) * (x.unit[row + r] * scale[c]);
    }
  }
}
#else
#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 8, kCols = 3;  // of a vector; rows and columns whose sums of vectors fit the registers
#else
constexpr int kLanes = 8, kRows = 2, kCols = 4;
#endif
constexpr int kLongest = 1 << 30;
typedef float Floats __attribute__((vector_size(4 * kLanes)));

struct Rows {
  const float* x;
  int inner;

  Rows(const float* x, int, int inner) : x(x), inner(inner) {}
};

// Compilers widen a loop of bytes one by one, so where they have them the instructions are named.
inline Floats widened(const int8_t* codes) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)codes)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)codes)));
#else
  Floats wide;
  for (int i = 0; i < kLanes; ++i) wide[i] = codes[i];
  return wide;
#endif
}

// In halves: one number after another takes as long as the products of a narrow matrix.
inline float total(Floats sums) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)sums);
#else
  float parts[kLanes];
  std::memcpy(parts, &sums, sizeof parts);
  for (int half = kLanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  return parts[0];
#endif
}

// R rows by C columns. A number of y is summed in the same order whatever R and C, so that a row is the same in any batch.
template <int R, int C>
inline void block(const Rows& x, int row, const int8_t* codes, const float* scale, float* y, int cols) {
  Floats sums[R][C] = {};
  for (int k = 0; k < x.inner; k += kLanes) {
    Floats wide[C];
    for (int c = 0; c < C; ++c) {
      if (k % 64 == 0) foresee(codes + int64_t{c} * x.inner + k);
      wide[c] = widened(codes + int64_t{c} * x.inner + k);
    }
    for (int r = 0; r < R; ++r) {
      Floats numbers;
      std::memcpy(&numbers, x.x + int64_t{row + r} * x.inner + k, sizeof numbers);
      for (int c = 0; c < C; ++c) sums[r][c] += numbers * wide[c];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) y[int64_t{row + r} * cols + c] = total(sums[r][c]) * scale[c];
}
#endif

template <int C>
void columns(const Rows& x, int rows, const int8_t* codes, const float* scale, float* y, int cols) {
  int r = 0;
  for (; r + kRows <= rows; r += kRows) block<kRows, C>(x, r, codes, scale, y, cols);
  for (; r < rows; ++r) block<1, C>(x, r, codes, scale, y, cols);
}

ffi::Error Coded(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S8> w, ffi::Buffer<ffi::F32> scale,
                 ffi::ResultBuffer<ffi::F32> y) {
  const int rows = x.dimensions()[0], inner = x.dimensions()[1], cols = w.dimensions()[0];
  if (inner % 16 || inner > kLongest)
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, "products: the summed axis must be a multiple of 16, and at most 16,384");
  const Rows in(x.typed_data(), rows, inner);
  const float* scales = scale.typed_data();
  const auto* codes = reinterpret_cast<const int8_t*>(w.untyped_data());
  float* out = y->typed_data();
  const int step = share(pool, double(rows) * cols * inner, cols, kCols);
  in_parts(pool, cols, step, [=, &in](int64_t first) {
    const int64_t end = std::min<int64_t>(first + step, cols);
    int64_t c = first;
    for (; c + kCols <= end; c += kCols) columns<kCols>(in, rows, codes + c * inner, scales + c, out + c, cols);
    for (; c < end; ++c) columns<1>(in, rows, codes + c * inner, scales + c, out + c, cols);
  });
  return ffi::Error::Success();
}

}  // namespace

// From now on products are made so; 0 where they cannot be.
extern "C" int open_vectors() {
#ifdef __AVX512BF16__
  kind = Kind::kVectors;
  return 1;
#endif
  return 0;
}

extern "C" int open_units() {
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
  constexpr int kAsk = 0x1023, kTileData = 18;  // Linux gives a process the units' registers when it asks for them
  if (syscall(SYS_arch_prctl, kAsk, kTileData)) return 0;
  kind = Kind::kUnits;
  return 1;
#endif
  return 0;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(narrow, Narrow,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::BF16>>().Arg<ffi::Buffer<ffi::BF16>>()
                                  .Ret<ffi::Buffer<ffi::F32>>().Attr<bool>("turn_x").Attr<bool>("turn_w"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(coded, Coded,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::F32>>().Arg<ffi::Buffer<ffi::S8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
