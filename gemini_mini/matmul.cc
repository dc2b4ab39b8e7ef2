// y = x w in bfloat16 with float32 sums, by cblas_gemm_bf16bf16f32 of a BLAS, as a function that XLA calls.
// Compiled and registered by matmul.py.

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

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
constexpr double kAlone = 1e6;                              // multiplications below which other threads are not woken

struct Work {
  std::atomic<int> next{0};
  int done = 0;
  std::mutex mutex;
  std::condition_variable all;
};

// The longer side of y is cut among the threads. Whoever comes takes the next part, the caller too, so that it never waits for a
// thread that has not begun, and every sum is made by one thread: the result is the same whoever made it.
ffi::Error Product(ffi::ThreadPool pool, ffi::Buffer<ffi::BF16> x, ffi::Buffer<ffi::BF16> w, ffi::ResultBuffer<ffi::F32> y,
                   bool turn_x, bool turn_w) {
  if (!gemm) return ffi::Error(ffi::ErrorCode::kFailedPrecondition, "products: no library is open");
  const int rows = y->dimensions()[0], cols = y->dimensions()[1], inner = x.dimensions()[turn_x ? 0 : 1];
  const int x_stride = x.dimensions()[1], w_stride = w.dimensions()[1];
  const auto* left = reinterpret_cast<const uint16_t*>(x.untyped_data());
  const auto* right = reinterpret_cast<const uint16_t*>(w.untyped_data());
  float* out = y->typed_data();
  const bool by_rows = rows >= cols;
  const int size = by_rows ? rows : cols;
  const int threads = double(rows) * cols * inner < kAlone ? 1 : int(pool.num_threads());
  const int step = ((size + threads - 1) / threads + kTile - 1) / kTile * kTile, parts = (size + step - 1) / step;

  auto part = [=](int64_t first) {
    const int count = std::min<int64_t>(step, size - first);
    const uint16_t* x_part = !by_rows ? left : left + first * (turn_x ? 1 : x_stride);
    const uint16_t* w_part = by_rows ? right : right + first * (turn_w ? w_stride : 1);
    gemm(kRowMajor, turn_x ? kTurned : kAsIs, turn_w ? kTurned : kAsIs, by_rows ? count : rows, by_rows ? cols : count, inner, 1, x_part,
         x_stride, w_part, w_stride, 0, out + first * (by_rows ? cols : 1), cols);
  };
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
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(product, Product,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::Buffer<ffi::BF16>>().Arg<ffi::Buffer<ffi::BF16>>()
                                  .Ret<ffi::Buffer<ffi::F32>>().Attr<bool>("turn_x").Attr<bool>("turn_w"));
