// Coordinates of skew-symmetric matrices: those below the diagonal, row by row, times the root of 2.

#pragma once

#include <algorithm>
#include <cstdint>

namespace {

constexpr int64_t TILE = 16;
constexpr double ROOT_HALF = 0.70710678118654752440;

// Call work(i, j, rows, columns) for the corner and the size of each tile on or below the diagonal.
template <class Work>
inline void tiles(int64_t n, const Work& work) {
    for (int64_t i = 0; i < n; i += TILE)
        for (int64_t j = 0; j <= i; j += TILE) work(i, j, std::min(TILE, n - i), std::min(TILE, n - j));
}

// The coordinates of (A - A^T) / 2, times a factor.
template <class T>
void pack(const T* A, T* c, int64_t n, T factor) {
    const T scale = factor * static_cast<T>(ROOT_HALF);
    tiles(n, [&](int64_t i0, int64_t j0, int64_t rows, int64_t columns) {
        T above[TILE][TILE];  // transposed, so that the strided side stays in registers and the first cache
        for (int64_t j = 0; j < columns; ++j)
            for (int64_t i = 0; i < rows; ++i) above[i][j] = A[(j0 + j) * n + i0 + i];
        for (int64_t i = 0; i < rows; ++i) {
            const T* below = A + (i0 + i) * n + j0;
            T* out = c + (i0 + i) * (i0 + i - 1) / 2 + j0;
            const int64_t stop = std::min(columns, i0 + i - j0);
            for (int64_t j = 0; j < stop; ++j) out[j] = scale * (below[j] - above[i][j]);
        }
    });
}

// The matrix with these coordinates, times a factor.
template <class T>
void unpack(const T* c, T* A, int64_t n, T factor) {
    const T scale = factor * static_cast<T>(ROOT_HALF);
    tiles(n, [&](int64_t i0, int64_t j0, int64_t rows, int64_t columns) {
        T below[TILE][TILE] = {};
        for (int64_t i = 0; i < rows; ++i) {
            const T* in = c + (i0 + i) * (i0 + i - 1) / 2 + j0;
            const int64_t stop = std::min(columns, i0 + i - j0);
            for (int64_t j = 0; j < stop; ++j) below[i][j] = scale * in[j];
        }
        if (i0 == j0) {
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < rows; ++j) A[(i0 + i) * n + j0 + j] = below[i][j] - below[j][i];
            return;
        }
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) A[(i0 + i) * n + j0 + j] = below[i][j];
        for (int64_t j = 0; j < columns; ++j)
            for (int64_t i = 0; i < rows; ++i) A[(j0 + j) * n + i0 + i] = -below[i][j];
    });
}

}  // namespace
