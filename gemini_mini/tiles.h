// What the other files share: tiles of products in bfloat16, by a CPU's matrix units (AMX) or by its vectors, and threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

enum class Kind { kNone, kVectors, kUnits };
extern Kind kind;  // by which of them products are made from now on

namespace {

#ifdef __AVX512BF16__
typedef uint32_t Pair __attribute__((may_alias));  // two bfloat16 along the summed axis, which the instructions multiply and add

inline __mmask16 first(int64_t count) { return (1u << std::clamp<int64_t>(count, 0, 16)) - 1; }

// e^x to 3e-6 of it: 2 to a whole power, and to the rest by its series.
inline __m512 exponential(__m512 x) {
  x = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), rest = _mm512_sub_ps(x, whole);
  constexpr float kSeries[] = {9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f};
  __m512 sum = _mm512_set1_ps(1.33335581e-3f);
#pragma GCC unroll 5
  for (float factor : kSeries) sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(sum, whole);
}

inline void store_narrow(__m512 numbers, uint16_t* to) { _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(numbers)); }

// 16 by 16 pairs, rows for columns.
inline void turn(__m512i block[16]) {
  __m512i made[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    made[i] = _mm512_unpacklo_epi32(block[i], block[i + 1]);
    made[i + 1] = _mm512_unpackhi_epi32(block[i], block[i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += i % 4 ? 3 : 1) {
    block[i / 4 * 4 + i % 4 * 2] = _mm512_unpacklo_epi64(made[i], made[i + 2]);
    block[i / 4 * 4 + i % 4 * 2 + 1] = _mm512_unpackhi_epi64(made[i], made[i + 2]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i even = _mm512_shuffle_i32x4(block[i], block[i + 4], 0x88), odd = _mm512_shuffle_i32x4(block[i], block[i + 4], 0xdd);
    const __m512i evens = _mm512_shuffle_i32x4(block[i + 8], block[i + 12], 0x88), odds = _mm512_shuffle_i32x4(block[i + 8], block[i + 12], 0xdd);
    made[i] = _mm512_shuffle_i32x4(even, evens, 0x88);
    made[i + 4] = _mm512_shuffle_i32x4(odd, odds, 0x88);
    made[i + 8] = _mm512_shuffle_i32x4(even, evens, 0xdd);
    made[i + 12] = _mm512_shuffle_i32x4(odd, odds, 0xdd);
  }
  std::copy(made, made + 16, block);
}

// 16 lines (rows of x, columns of w) by 16 pairs to `to`, where a line or, not `by_lines`, a pair of 16 lines stands every `step`.
// In memory a line's numbers follow one another or, not `along`, those of all lines do. Beyond `lines` and `pairs` there are zeros.
void lay(const uint16_t* from, int64_t stride, bool along, int64_t lines, int64_t pairs, bool by_lines, Pair* to, int64_t step) {
  __m512i block[16];
  for (int i = 0; i < 16; ++i, from += along ? stride : 2 * stride) {
    if (i >= (along ? lines : pairs)) block[i] = _mm512_setzero_si512();
    else if (along) block[i] = _mm512_maskz_loadu_epi32(first(pairs), from);
    else block[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(lines), from)),
                                    _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(lines), from + stride)), 16));
  }
  if (along != by_lines) turn(block);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * step, block[i]);
}

// The columns of `w` as tiles read them: by 16, a pair of each after another.
void lay_columns(const uint16_t* w, int64_t stride, bool along, int64_t cols, int64_t pairs, __m512i* to, int64_t step) {
  for (int64_t d = 0; d < pairs; d += 16)
    for (int64_t c = 0; c < cols; c += 16)
      lay(w + (along ? c * stride + 2 * d : 2 * d * stride + c), stride, along, cols - c, pairs - d, false, (Pair*)(to + c / 16 * step + d), 16);
}

// The rows of `x`, for the left side.
void lay_rows(const uint16_t* x, int64_t stride, bool along, int64_t rows, int64_t pairs, Pair* to, int64_t step) {
  for (int64_t d = 0; d < pairs; d += 16)
    for (int64_t r = 0; r < rows; r += 16)
      lay(x + (along ? r * stride + 2 * d : 2 * d * stride + r), stride, along, rows - r, pairs - d, true, to + r * step + d, step);
}

// A tile is y = x w, or is added to y: `rows` of x stand every `x_step` pairs, 16 of `cols` columns of w every `w_step` vectors.

// By the vectors' instruction: a tile's sums stay in the registers.
struct Vectors {
  static constexpr int kTall = 6, kWide = 4;  // rows, and vectors of 16 columns

  void operator()(int pairs, const Pair* x, int64_t x_step, const __m512i* w, int64_t w_step, float* y, int64_t stride, int rows, int cols,
                  bool add) const {
    const Pair* line[kTall];
    const __m512i* column[kWide];
    for (int r = 0; r < kTall; ++r) line[r] = x + std::min(r, rows - 1) * x_step;  // beyond the last row there may be nothing to read
    for (int c = 0; c < kWide; ++c) column[c] = w + std::min(c, (cols - 1) / 16) * w_step;
    __m512 sums[kTall][kWide];
#pragma GCC unroll 6
    for (int r = 0; r < kTall; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < kWide; ++c) sums[r][c] = _mm512_setzero_ps();
    for (int k = 0; k < pairs; ++k)
#pragma GCC unroll 6
      for (int r = 0; r < kTall; ++r) {
        const auto left = (__m512bh)_mm512_set1_epi32(line[r][k]);
#pragma GCC unroll 4
        for (int c = 0; c < kWide; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], left, (__m512bh)column[c][k]);
      }
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; c += 16) {
        float* to = y + r * stride + c;
        const __m512 sum = sums[r][c / 16];
        _mm512_mask_storeu_ps(to, first(cols - c), add ? _mm512_add_ps(_mm512_maskz_loadu_ps(first(cols - c), to), sum) : sum);
      }
  }
};

#ifdef __AMX_BF16__
// By the matrix units, whose eight registers of 16 rows of 64 bytes a thread sets up before it uses them.
struct Units {
  static constexpr int kTall = 32, kWide = 2;

  Units() {
    static const struct alignas(64) {
      uint8_t palette = 1, start = 0, none[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    _tile_loadconfig(&shape);
  }
  ~Units() { _tile_release(); }

  void operator()(int pairs, const Pair* x, int64_t x_step, const __m512i* w, int64_t w_step, float* y, int64_t stride, int rows, int cols,
                  bool add) const {
    alignas(64) float some[kTall * 16 * kWide];
    float* to = y;
    int64_t step = stride;
    const bool is_whole = rows == kTall && cols == 16 * kWide;
    if (!is_whole) {
      to = some, step = 16 * kWide;
      for (int r = 0; add && r < rows; ++r) std::copy(y + r * stride, y + r * stride + cols, some + r * step);
    }
    const int64_t bytes = step * sizeof(float);
    float* below = to + 16 * step;
    asm volatile("" ::: "memory");  // GCC does not say that loads of tiles read memory
    if (add) {
      _tile_loadd(0, to, bytes);
      _tile_loadd(1, to + 16, bytes);
      _tile_loadd(2, below, bytes);
      _tile_loadd(3, below + 16, bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int k = 0; k < pairs; k += 16) {
      _tile_loadd(4, x + k, x_step * sizeof(Pair));
      _tile_loadd(6, w + k, 64);
      _tile_loadd(7, w + w_step + k, 64);
      _tile_loadd(5, x + 16 * x_step + k, x_step * sizeof(Pair));
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, to, bytes);
    _tile_stored(1, to + 16, bytes);
    _tile_stored(2, below, bytes);
    _tile_stored(3, below + 16, bytes);
    for (int r = 0; !is_whole && r < rows; ++r) std::copy(some + r * step, some + r * step + cols, y + r * stride);
  }
};
#endif

template <typename Tile>
void multiply(const Tile& tile, int64_t rows, int64_t cols, int64_t pairs, const Pair* x, int64_t x_step, const __m512i* w, int64_t w_step,
              float* y, int64_t stride, bool add) {
  constexpr int kAcross = 16 * Tile::kWide;
  for (int64_t r = 0; r < rows; r += Tile::kTall)
    for (int64_t c = 0; c < cols; c += kAcross)
      tile(pairs, x + r * x_step, x_step, w + c / 16 * w_step, w_step, y + r * stride + c, stride, std::min<int64_t>(Tile::kTall, rows - r),
           std::min<int64_t>(kAcross, cols - c), add);
}
#endif

// run(tile) with the tiles of `kind`, if there are any.
template <typename Run>
void with_tiles(Run run) {
#ifdef __AVX512BF16__
  if (kind == Kind::kVectors) run(Vectors());
#ifdef __AMX_BF16__
  if (kind == Kind::kUnits) run(Units());
#endif
#endif
}

constexpr int kTile = 16;                                   // rows and columns of a matrix unit
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

inline ffi::Error refused() {
  return ffi::Error(ffi::ErrorCode::kFailedPrecondition, "products: none are open, or an axis has not the size it must have");
}

inline const uint16_t* begin(const ffi::Buffer<ffi::BF16>& buffer) { return reinterpret_cast<const uint16_t*>(buffer.untyped_data()); }

#ifdef __AVX512BF16__
constexpr int64_t kShare = 128;  // columns that a thread lays out at once

// A matrix laid out as the right side of products, once for all threads.
struct Columns {
  std::vector<__m512i> all;
  int64_t step;

  // `w` [pairs * 2, cols], or turned.
  Columns(ffi::ThreadPool& pool, const uint16_t* w, int64_t stride, bool along, int64_t cols, int64_t pairs) : all(cols / 16 * pairs), step(pairs) {
    in_parts(pool, cols, kShare, [&, this](int64_t c) {
      lay_columns(w + (along ? c * stride : c), stride, along, std::min(kShare, cols - c), pairs, &all[c / 16 * step], step);
    });
  }

  const __m512i* column(int64_t c) const { return &all[c / 16 * step]; }
  const __m512i* pair(int64_t k) const { return &all[k]; }
};

const Pair* as_pairs(const uint16_t* numbers) { return (const Pair*)numbers; }
#endif

}  // namespace
