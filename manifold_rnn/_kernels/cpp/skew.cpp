// Coordinates of many skew-symmetric matrices.

#include "coordinates.h"
#include "exports.h"

namespace {

template <class T>
void pack_all(const T* A, T* c, int64_t count, int64_t n) {
    for (; count > 0; --count, A += n * n, c += n * (n - 1) / 2) pack(A, c, n, T(1));
}

template <class T>
void unpack_all(const T* c, T* A, int64_t count, int64_t n) {
    for (; count > 0; --count, A += n * n, c += n * (n - 1) / 2) unpack(c, A, n, T(1));
}

}  // namespace

extern "C" {
EXPORTED void pack_skew_float(const float* A, float* c, int64_t count, int64_t n) { pack_all(A, c, count, n); }
EXPORTED void pack_skew_double(const double* A, double* c, int64_t count, int64_t n) { pack_all(A, c, count, n); }
EXPORTED void unpack_skew_float(const float* c, float* A, int64_t count, int64_t n) { unpack_all(c, A, count, n); }
EXPORTED void unpack_skew_double(const double* c, double* A, int64_t count, int64_t n) { unpack_all(c, A, count, n); }
}
