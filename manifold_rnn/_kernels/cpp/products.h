// Products of matrices by tiles of ROWS x 2 vectors that stay in registers.

#pragma once

#include <algorithm>

#include "vectors.h"

namespace {

// The right factor of a product, K x N, cut into panels of two vectors.
template <class T>
struct Right {
    static constexpr int64_t L = LANES<T>;
    int64_t K, N, lanes, vectors;
    Buffer<T> data;

    Right(const T* source, int64_t K, int64_t N, int64_t down, int64_t across)
        : K(K), N(N), lanes(std::min(L, N)), vectors((N + L - 1) / L), data(K * (vectors + 1) * L) {
        constexpr int64_t BLOCK = 16;  // rows whose ends of cache lines are used before they are lost
        for (int64_t j = 0; j < vectors; ++j) {
            const T* from = source + column(j) * across;
            T* to = data + (j / 2 * K * 2 + j % 2) * L;
            for (int64_t k = 0; across == 1 && k < K; ++k) write(to + k * 2 * L, read(from + k * down, lanes));
            for (int64_t start = 0; across != 1 && start < K; start += BLOCK)
                for (int64_t l = 0; l < lanes; ++l)
                    for (int64_t k = start; k < std::min(K, start + BLOCK); ++k)
                        to[k * 2 * L + l] = from[k * down + l * across];
        }
    }
    int64_t column(int64_t vector) const { return std::min(vector * L, N - lanes); }
    const T* panel(int64_t p) const { return data + p * K * 2 * L; }
};

// acc += a b for rows of a that are `row` apart, their entries `STEP` apart; b is a panel.
template <class T, int M, int N, int STEP>
inline __attribute__((always_inline)) void accumulate(Vec<T> (&acc)[M][N], const T* a, int64_t row, const T* b,
                                                      int64_t K) {
    constexpr int THIRD = (M + 2) / 3;
    const T* q[THIRD];
#pragma GCC unroll 4
    for (int i = 0; i < THIRD; ++i) q[i] = a + 3 * i * row;
    for (int64_t k = 0; k < K; ++k, b += 2 * LANES<T>) {
        Vec<T> w[N];
#pragma GCC unroll 2
        for (int v = 0; v < N; ++v) w[v] = read(b + v * LANES<T>);
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m) {
            const T s = q[m / 3][m % 3 * row];
#pragma GCC unroll 2
            for (int v = 0; v < N; ++v) acc[m][v] += s * w[v];
        }
#pragma GCC unroll 4
        for (int i = 0; i < THIRD; ++i) q[i] += STEP;
    }
}

template <class T>
struct Left {
    const T* data;
    int64_t row;
};

template <class T>
using Tile = void (*)(Left<T>, const T*, int64_t, Left<T>, const T*, int64_t, T*);

// out = a b + c d, with STEP 1 for factors in rows, or ROWS for those packed in columns.
template <class T, int M, int N, int STEP>
void tile(Left<T> a, const T* b, int64_t K, Left<T> c, const T* d, int64_t K2, T* out) {
    Vec<T> acc[M][N];
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
        for (int v = 0; v < N; ++v) acc[m][v] = Vec<T>{};
    accumulate<T, M, N, STEP>(acc, a.data, a.row, b, K);
    if (STEP == 1 && K2) accumulate<T, M, N, STEP>(acc, c.data, c.row, d, K2);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
        for (int v = 0; v < N; ++v) write(out + (m * 2 + v) * LANES<T>, acc[m][v]);
}

template <class T, int N>
Tile<T> tile_of(int64_t rows) {
    static constexpr Tile<T> all[] = {
        tile<T, 1, N, 1>, tile<T, 2, N, 1>, tile<T, 3, N, 1>, tile<T, 4, N, 1>,
        tile<T, 5, N, 1>, tile<T, 6, N, 1>,
#if defined(__AVX512F__) || defined(__aarch64__)
        tile<T, 7, N, 1>, tile<T, 8, N, 1>, tile<T, 9, N, 1>,
#endif
#if defined(__AVX512F__)
        tile<T, 10, N, 1>, tile<T, 11, N, 1>, tile<T, 12, N, 1>,
#endif
    };
    return all[rows - 1];
}

// Call done(first row, rows, vector, scratch) for each vector of columns of a b + c d.
template <class T, class Done>
inline void multiply(Left<T> a, const Right<T>& b, Left<T> c, const Right<T>* d, int64_t rows, T* scratch, Done done) {
    const int64_t blocks = (rows + ROWS - 1) / ROWS;
    for (int64_t p = 0; 2 * p < b.vectors; ++p) {
        const int width = b.vectors - 2 * p > 1 ? 2 : 1;
        for (int64_t i = 0; i < blocks; ++i) {
            const int64_t first = rows * i / blocks, count = rows * (i + 1) / blocks - first;
            const Tile<T> product = width == 2 ? tile_of<T, 2>(count) : tile_of<T, 1>(count);
            product({a.data + first * a.row, a.row}, b.panel(p), a.data ? b.K : 0,
                    {c.data + (d ? first * c.row : 0), c.row}, d ? d->panel(p) : nullptr, d ? d->K : 0, scratch);
            for (int v = 0; v < width; ++v) done(first, count, 2 * p + v, scratch + v * LANES<T>);
        }
    }
}

}  // namespace
