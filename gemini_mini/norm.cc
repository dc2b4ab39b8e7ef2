// RMSNorm y = x / rms(x) scale of every row, forward and backward, in float32: what XLA makes in several passes over memory, in one.
// Registered by matmul.py. Paper: arXiv 1910.07467.

#include <cmath>

#include "tiles.h"

namespace {

#ifdef __AVX512BF16__
using Floats = ffi::Buffer<ffi::F32>;
using Made = ffi::ResultBuffer<ffi::F32>;
constexpr int64_t kBlock = 512;  // rows that one thread takes, whose sums for the scale stand apart (matmul.BLOCK)

inline float per_rms(const float* x, int64_t width) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += 16) sum = _mm512_fmadd_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(x + i), sum);
  return 1 / std::sqrt(_mm512_reduce_add_ps(sum) / width + 1e-6f);
}

// x [rows, width], scale [width]. `width` is a multiple of 16.
ffi::Error Norm(ffi::ThreadPool pool, Floats x, Floats scale, Made y) {
  const int64_t rows = x.dimensions()[0], width = x.dimensions()[1];
  if (kind == Kind::kNone || width % 16) return refused();
  const float* by = scale.typed_data();
  in_parts(pool, rows, kBlock, [&](int64_t begin) {
    for (int64_t row = begin; row < std::min(begin + kBlock, rows); ++row) {
      const float* from = x.typed_data() + row * width;
      float* to = y->typed_data() + row * width;
      const __m512 times = _mm512_set1_ps(per_rms(from, width));
      for (int64_t i = 0; i < width; i += 16)
        _mm512_storeu_ps(to + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(from + i), times), _mm512_loadu_ps(by + i)));
    }
  });
  return ffi::Error::Success();
}

// `slopes` of y to those of x, and of the scale for every block of rows.
ffi::Error NormBack(ffi::ThreadPool pool, Floats x, Floats scale, Floats slopes, Made x_slopes, Made scale_slopes) {
  const int64_t rows = x.dimensions()[0], width = x.dimensions()[1];
  if (kind == Kind::kNone || width % 16) return refused();
  const float* by = scale.typed_data();
  in_parts(pool, rows, kBlock, [&](int64_t begin) {
    float* sums = scale_slopes->typed_data() + begin / kBlock * width;
    std::fill_n(sums, width, 0.0f);
    for (int64_t row = begin; row < std::min(begin + kBlock, rows); ++row) {
      const float *from = x.typed_data() + row * width, *slope = slopes.typed_data() + row * width;
      float* to = x_slopes->typed_data() + row * width;
      const float times = per_rms(from, width);
      __m512 along = _mm512_setzero_ps();  // slope scale . x
      for (int64_t i = 0; i < width; i += 16) {
        const __m512 both = _mm512_mul_ps(_mm512_loadu_ps(slope + i), _mm512_loadu_ps(from + i));
        along = _mm512_fmadd_ps(both, _mm512_loadu_ps(by + i), along);
        _mm512_storeu_ps(sums + i, _mm512_fmadd_ps(both, _mm512_set1_ps(times), _mm512_loadu_ps(sums + i)));
      }
      const __m512 less = _mm512_set1_ps(times * times * times / width * _mm512_reduce_add_ps(along));
      for (int64_t i = 0; i < width; i += 16) {
        const __m512 straight = _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(slope + i), _mm512_loadu_ps(by + i)), _mm512_set1_ps(times));
        _mm512_storeu_ps(to + i, _mm512_fnmadd_ps(less, _mm512_loadu_ps(from + i), straight));
      }
    }
  });
  return ffi::Error::Success();
}
#endif

}  // namespace

#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm, Norm, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(norm_back, NormBack,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Ret<Floats>().Ret<Floats>());
#endif
