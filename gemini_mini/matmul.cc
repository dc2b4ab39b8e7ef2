// Products that XLA does not make fast on a CPU, as functions it calls. Compiled and registered by matmul.py.
//   narrow: y = x w in bfloat16 with float32 sums, by cblas_gemm_bf16bf16f32 of a BLAS
//   coded:  y = x w^T scale, the weights in 8 bits, which are widened where they are multiplied

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

using Gemm = void (*)(int order, int turn_x, int turn_w, int rows, int cols, int inner, float scale, const uint16_t* x, int x_stride,
                      const uint16_t* w, int w_stride, float keep, float* y, int y_stride);
static Gemm gemm = nullptr;

extern "C" int open_blas(const char* path) {
  void* library = dlopen(path, RTLD_NOW);
  gemm = library ? reinterpret_cast<Gemm>(dlsym(library, "cblas_gemm_bf16bf16f32")) : nullptr;
  return gemm != nullptr;
}

namespace {

constexpr int kRowMajor = 101, kAsIs = 111, kTurned = 112;  // as CBLAS numbers them
constexpr int kTile = 16;                                   // rows and columns of a matrix unit
constexpr int kManyRows = 32;                              // from so many on, a column is widened once for all of them
constexpr double kAlone = 1e6;                              // multiplications below which other threads are not woken

// Numbers of the longer side of a result for each thread, a multiple of `unit`.
int share(ffi::ThreadPool& pool, double multiplications, int size, int unit) {
  const int threads = multiplications < kAlone ? 1 : int(pool.num_threads());
  return ((size + threads - 1) / threads + unit - 1) / unit * unit;
}

// part(first) for first = 0, step, ... below `size`. Whoever comes takes the next one, the caller too, so that it never waits for a
// thread that has not begun. Every sum is made by one thread: the result is the same whoever made it.
template <typename Part>
void in_parts(ffi::ThreadPool& pool, int size, int step, Part part) {
  struct Work {
    std::atomic<int> next{0};
    int done = 0;
    std::mutex mutex;
    std::condition_variable all;
  };
  const int parts = (size + step - 1) / step;
  auto work = std::make_shared<Work>();
  auto take = [=] {
    int mine = 0;
    for (int i; (i = work->next++) < parts; ++mine) part(int64_t{i} * step);
    std::lock_guard<std::mutex> lock(work->mutex);
    if ((work->done += mine) == parts) work->all.notify_all();
  };
  for (int i = 1; i < parts; ++i) pool.Schedule([=] { take(); });
  take();
  std::unique_lock<std::mutex> lock(work->mutex);
  work->all.wait(lock, [&] { return work->done == parts; });
}

// One product, whose longer side is cut, or as many as there are in [batch, ., .], dealt whole.
ffi::Error Narrow(ffi::ThreadPool pool, ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> w, ffi::ResultBuffer<ffi::F32> y,
                  bool turn_x, bool turn_w) {
  if (!gemm) return ffi::Error(ffi::ErrorCode::kFailedPrecondition, "products: no library is open");
  const auto x_shape = x.dimensions().last(2), w_shape = w.dimensions().last(2), y_shape = y->dimensions().last(2);
  const int rows = y_shape[0], cols = y_shape[1], inner = x_shape[turn_x ? 0 : 1], x_stride = x_shape[1], w_stride = w_shape[1];
  const int batch = y->element_count() / (int64_t{rows} * cols);
  const auto* left = reinterpret_cast<const uint16_t*>(x.untyped_data());
  const auto* right = reinterpret_cast<const uint16_t*>(w.untyped_data());
  float* out = y->typed_data();
  const auto multiply = [=](int some_rows, int some_cols, const uint16_t* from_x, const uint16_t* from_w, float* to) {
    gemm(kRowMajor, turn_x ? kTurned : kAsIs, turn_w ? kTurned : kAsIs, some_rows, some_cols, inner, 1, from_x, x_stride, from_w,
         w_stride, 0, to, cols);
  };
  const double multiplications = double(batch) * rows * cols * inner;
  if (batch > 1) {
    const int step = share(pool, multiplications, batch, 1);
    in_parts(pool, batch, step, [=](int64_t first) {
      for (int64_t i = first; i < std::min<int64_t>(first + step, batch); ++i)
        multiply(rows, cols, left + i * inner * rows, right + i * inner * cols, out + i * rows * cols);
    });
    return ffi::Error::Success();
  }
  const bool by_rows = rows >= cols;
  const int size = by_rows ? rows : cols, step = share(pool, multiplications, size, kTile);
  in_parts(pool, size, step, [=](int64_t first) {
    const int count = std::min<int64_t>(step, size - first);
    if (by_rows) multiply(count, cols, left + first * (turn_x ? 1 : x_stride), right, out + first * cols);
    else multiply(rows, count, left, right + first * (turn_w ? w_stride : 1), out + first);
  });
  return ffi::Error::Success();
}

#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 8, kCols = 3;  // of a vector; rows and columns whose sums of vectors fit the registers
#else
constexpr int kLanes = 8, kRows = 2, kCols = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * kLanes)));

// What is multiplied. Whole numbers up to 127 are the same in bfloat16, so where the processor sums its products in float32 only x is rounded.
#ifdef __AVX512BF16__
constexpr int kStep = 32;  // numbers of a row that one instruction multiplies
typedef uint16_t Number;
typedef __m512bh Numbers;
inline Numbers load(const Number* from) { return (Numbers)_mm512_loadu_si512(from); }
inline void store(Numbers numbers, Number* to) { _mm512_storeu_si512(to, (__m512i)numbers); }
inline Numbers load(const float* from) { return _mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + kLanes), _mm512_loadu_ps(from)); }
inline __m512 widened(const int8_t* codes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)codes))); }
inline Numbers load(const int8_t* codes) { return _mm512_cvtne2ps_pbh(widened(codes + kLanes), widened(codes)); }
inline Floats add(Floats sum, Numbers x, Numbers w) { return (Floats)_mm512_dpbf16_ps((__m512)sum, x, w); }
#else
constexpr int kStep = kLanes;
typedef float Number;
typedef Floats Numbers;
inline Numbers load(const float* from) {
  Floats numbers;
  std::memcpy(&numbers, from, sizeof numbers);
  return numbers;
}
inline void store(Numbers numbers, Number* to) { std::memcpy(to, &numbers, sizeof numbers); }
// Compilers widen a loop of bytes one by one, so where they have them the instructions are named.
inline Numbers load(const int8_t* codes) {
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
inline Floats add(Floats sum, Numbers x, Numbers w) { return sum + x * w; }
#endif

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

// R rows of x by C columns, in 8 bits or widened. A number of y is summed in the same order whatever R and C, so that a row is the same in
// any batch.
template <int R, int C, typename Weight>
inline void block(const Number* x, const Weight* w, const float* scale, float* y, int inner, int cols) {
  Floats sums[R][C] = {};
  for (int k = 0; k < inner; k += kStep) {
    Numbers wide[C];
    for (int c = 0; c < C; ++c) {
      if (sizeof(Weight) == 1 && k % 64 == 0)
        __builtin_prefetch(w + int64_t{c + 2 * C} * inner + k);  // columns end before the processor foresees the next
      wide[c] = load(w + int64_t{c} * inner + k);
    }
    for (int r = 0; r < R; ++r) {
      const Numbers row = load(x + int64_t{r} * inner + k);
      for (int c = 0; c < C; ++c) sums[r][c] = add(sums[r][c], row, wide[c]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) y[int64_t{r} * cols + c] = total(sums[r][c]) * scale[c];
}

template <int C, typename Weight>
void columns(const Number* x, const Weight* w, const float* scale, float* y, int rows, int inner, int cols) {
  int r = 0;
  for (; r + kRows <= rows; r += kRows) block<kRows, C>(x + int64_t{r} * inner, w, scale, y + int64_t{r} * cols, inner, cols);
  for (; r < rows; ++r) block<1, C>(x + int64_t{r} * inner, w, scale, y + int64_t{r} * cols, inner, cols);
}

template <typename From>
void copy(const From* from, Number* to, int64_t size) {
  for (int64_t i = 0; i < size; i += kStep) store(load(from + i), to + i);
}

ffi::Error Coded(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S8> w, ffi::Buffer<ffi::F32> scale,
                 ffi::ResultBuffer<ffi::F32> y) {
  const int rows = x.dimensions()[0], inner = x.dimensions()[1], cols = w.dimensions()[0];
  if (inner % kStep) return ffi::Error(ffi::ErrorCode::kInvalidArgument, "products: the summed axis must be a multiple of a vector's");
  std::vector<Number> numbers(int64_t{rows} * inner);
  copy(x.typed_data(), numbers.data(), numbers.size());
  const Number* in = numbers.data();
  const float* scales = scale.typed_data();
  const auto* codes = reinterpret_cast<const int8_t*>(w.untyped_data());
  float* out = y->typed_data();
  const int step = share(pool, double(rows) * cols * inner, cols, kCols);
  const bool is_kept = rows >= kManyRows;
  in_parts(pool, cols, step, [=](int64_t first) {
    const int64_t end = std::min<int64_t>(first + step, cols);
    std::vector<Number> kept(is_kept ? kCols * inner : 0);
    int64_t c = first;
    for (; c + kCols <= end; c += kCols) {
      if (is_kept) {
        copy(codes + c * inner, kept.data(), kept.size());
        columns<kCols>(in, kept.data(), scales + c, out + c, rows, inner, cols);
      } else columns<kCols>(in, codes + c * inner, scales + c, out + c, rows, inner, cols);
    }
    for (; c < end; ++c) columns<1>(in, codes + c * inner, scales + c, out + c, rows, inner, cols);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(narrow, Narrow,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::BF16>>().Arg<ffi::Buffer<ffi::BF16>>()
                                  .Ret<ffi::Buffer<ffi::F32>>().Attr<bool>("turn_x").Attr<bool>("turn_w"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(coded, Coded,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::F32>>().Arg<ffi::Buffer<ffi::S8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
