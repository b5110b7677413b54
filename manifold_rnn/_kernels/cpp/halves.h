// Products of square matrices, whole or the half of one that is symmetric or skew-symmetric.

#pragma once

#include <algorithm>
#include <cstring>

#include "vectors.h"

namespace {

// Entry (i, j) of a matrix is data[i * down + j * right].
template <class T>
struct Matrix {
    const T* data;
    int64_t down, right;
};

template <class T>
class Products {
  public:
    static constexpr int64_t L = LANES<T>, WIDE = 2 * L;

    Products(int64_t n, T* scratch) : n_(n), panels_((n + WIDE - 1) / WIDE), packed_(scratch) {}
    static int64_t room(int64_t n) { return (n + WIDE - 1) / WIDE * WIDE * n; }

    // Bring a matrix that a later product reads or writes near to the processor, a part with each tile of those before.
    void fetch(const T* matrix) {
        regions_[count_++] = {reinterpret_cast<const char*>(matrix), static_cast<int64_t>(n_ * n_ * sizeof(T))};
    }

    // Take the right factor of the products that follow.
    void pack(Matrix<T> b) {
        constexpr int64_t TILE = 16;
        for (int64_t p = 0; p < panels_; ++p) {
            T* to = packed_ + p * n_ * WIDE;
            const int64_t columns = std::min(WIDE, n_ - p * WIDE);
            const T* from = b.data + p * WIDE * b.right;
            if (columns < WIDE) std::fill_n(to, n_ * WIDE, T(0));
            if (b.right == 1) {
                for (int64_t k = 0; k < n_; ++k)
                    std::memcpy(to + k * WIDE, from + k * b.down, columns * sizeof(T));
                continue;
            }
            for (int64_t k0 = 0; k0 < n_; k0 += TILE)
                for (int64_t j = 0; j < columns; ++j)
                    for (int64_t k = k0; k < std::min(n_, k0 + TILE); ++k)
                        to[k * WIDE + j] = from[k * b.down + j * b.right];
        }
    }

    // out = a b, or only its tiles on and below the diagonal; done(i, j, value, lanes) may change what is written.
    template <class Done>
    void multiply(Matrix<T> a, bool lower, const Done& done) {
        for (int64_t p = 0; p < panels_; ++p) {
            const int64_t start = lower ? p * WIDE : 0, rows = n_ - start, blocks = (rows + ROWS - 1) / ROWS;
            for (int64_t i = 0; i < blocks; ++i) {
                const int64_t first = start + rows * i / blocks, count = start + rows * (i + 1) / blocks - first;
                tile(count, {a.data + first * a.down, a.down, a.right}, packed_ + p * n_ * WIDE, first, p * WIDE, done);
            }
        }
    }

    void multiply(Matrix<T> a, T* out) {
        multiply(a, false, [&](int64_t i, int64_t j, Vec<T> v, int64_t lanes) { write(out + i * n_ + j, v, lanes); });
    }

    // A product that is symmetric (sign 1) or skew-symmetric (sign -1).
    void multiply_half(Matrix<T> a, T sign, T* out) {
        multiply(a, true, [&](int64_t i, int64_t j, Vec<T> v, int64_t lanes) { write(out + i * n_ + j, v, lanes); });
        mirror(n_, out, [sign](T below) { return sign * below; });
    }

    // Entry (j, i) above the diagonal becomes f of entry (i, j).
    template <class F>
    static void mirror(int64_t n, T* out, const F& f) {
        constexpr int64_t TILE = 16;
        for (int64_t i0 = 0; i0 < n; i0 += TILE)
            for (int64_t j0 = 0; j0 <= i0; j0 += TILE) {
                const int64_t rows = std::min(TILE, n - i0), columns = std::min(TILE, n - j0);
                T block[TILE][TILE];
                for (int64_t i = 0; i < rows; ++i)
                    for (int64_t j = 0; j < columns; ++j) block[j][i] = f(out[(i0 + i) * n + j0 + j]);
                for (int64_t j = 0; j < columns; ++j) {
                    T* row = out + (j0 + j) * n + i0;
                    for (int64_t i = std::max<int64_t>(0, j0 + j + 1 - i0); i < rows; ++i) row[i] = block[j][i];
                }
            }
    }

  private:
    void fetch_some() {
        constexpr int64_t LINE = 64, PART = 64 * LINE;
        if (!count_) return;
        Region& r = regions_[count_ - 1];
        const int64_t stop = std::min(r.left, PART);
        for (int64_t at = 0; at < stop; at += LINE) __builtin_prefetch(r.at + at, 0, 2);
        r.at += stop;
        r.left -= stop;
        if (!r.left) --count_;
    }

    template <class Done>
    void tile(int64_t count, Matrix<T> a, const T* b, int64_t i, int64_t j, const Done& done) {
        fetch_some();
        switch (count) {
            case 1: return run<1>(a, b, i, j, done);
            case 2: return run<2>(a, b, i, j, done);
            case 3: return run<3>(a, b, i, j, done);
            case 4: return run<4>(a, b, i, j, done);
            case 5: return run<5>(a, b, i, j, done);
            case 6: return run<6>(a, b, i, j, done);
#if defined(__AVX512F__) || defined(__aarch64__)
            case 7: return run<7>(a, b, i, j, done);
            case 8: return run<8>(a, b, i, j, done);
            case 9: return run<9>(a, b, i, j, done);
#endif
#if defined(__AVX512F__)
            case 10: return run<10>(a, b, i, j, done);
            case 11: return run<11>(a, b, i, j, done);
            case 12: return run<12>(a, b, i, j, done);
#endif
        }
    }

    template <int M, class Done>
    void run(Matrix<T> a, const T* b, int64_t i, int64_t j, const Done& done) const {
        Vec<T> acc[M][2];
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m) acc[m][0] = acc[m][1] = Vec<T>{};
        constexpr int THIRD = (M + 2) / 3;
        const T* q[THIRD];
#pragma GCC unroll 4
        for (int m = 0; m < THIRD; ++m) q[m] = a.data + 3 * m * a.down;
        for (int64_t k = 0; k < n_; ++k, b += WIDE) {
            const Vec<T> left = read(b), right = read(b + L);
#pragma GCC unroll 12
            for (int m = 0; m < M; ++m) {
                const T s = q[m / 3][m % 3 * a.down];
                acc[m][0] += s * left;
                acc[m][1] += s * right;
            }
#pragma GCC unroll 4
            for (int m = 0; m < THIRD; ++m) q[m] += a.right;
        }
        const int64_t lanes = std::min(L, n_ - j), more = std::min(L, n_ - j - L);
#pragma GCC unroll 12
        for (int m = 0; m < M; ++m) {
            done(i + m, j, acc[m][0], lanes);
            if (more > 0) done(i + m, j + L, acc[m][1], more);
        }
    }

    struct Region {
        const char* at;
        int64_t left;
    };

    int64_t n_, panels_;
    T* packed_;
    Region regions_[4];
    int count_ = 0;
};

}  // namespace
