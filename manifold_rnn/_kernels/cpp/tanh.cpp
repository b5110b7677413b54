// tanh of the rows of a matrix, for steps of cells between products.

#include <algorithm>
#include <cstdint>

#include "exports.h"
#include "nonlinearities.h"
#include "vectors.h"

namespace {

template <class T>
void tanh_rows(const T* z, T* out, int64_t rows, int64_t columns, int64_t z_row, int64_t out_row) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; c += LANES<T>) {
            const int64_t lanes = std::min<int64_t>(LANES<T>, columns - c);
            write(out + r * out_row + c, tanh_of<T>(read(z + r * z_row + c, lanes)), lanes);
        }
}

}  // namespace

extern "C" {
EXPORTED void tanh_float(const float* z, float* out, int64_t rows, int64_t columns, int64_t z_row, int64_t out_row) {
    tanh_rows(z, out, rows, columns, z_row, out_row);
}
EXPORTED void tanh_double(const double* z, double* out, int64_t rows, int64_t columns, int64_t z_row,
                          int64_t out_row) {
    tanh_rows(z, out, rows, columns, z_row, out_row);
}
}
