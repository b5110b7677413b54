// Square matrices of at most 64 rows in the first cache: products, eliminations by rows, transposes.
//
// A matrix has n rows and columns, each row is padded with zeros to `line`, a whole number of vectors and of tiles.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

#if defined(__AVX512F__)
constexpr int64_t HIGH = 8;  // rows of a tile
#else
constexpr int64_t HIGH = 4;
#endif

constexpr int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

template <class T>
struct Small {
    static constexpr int64_t L = LANES<T>;
    const int64_t n, rows, line;

    explicit Small(int64_t n) : n(n), rows(whole(n, HIGH)), line(whole(n, std::max<int64_t>(L, HIGH))) {}
    int64_t size() const { return line * line; }

    void load(const T* from, T* to) const {
        for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * line, from + i * n, n * sizeof(T));
    }

    void store(const T* from, T* to) const {
        for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * n, from + i * line, n * sizeof(T));
    }

    void transpose(const T* from, T* to) const {
        for (int64_t i = 0; i < rows; i += HIGH)
            for (int64_t j = 0; j < rows; j += HIGH) {
                T block[HIGH][HIGH];
                for (int64_t r = 0; r < HIGH; ++r)
                    for (int64_t c = 0; c < HIGH; ++c) block[c][r] = from[(i + r) * line + j + c];
                for (int64_t r = 0; r < HIGH; ++r) std::memcpy(to + (j + r) * line + i, block[r], sizeof block[r]);
            }
    }

    // out = keep base + factor a b, where the base may be out itself or null, but neither a nor b may be out.
    // The entries of a are `down` and `across` apart, so that it may be a transpose.
    void product(const T* a, int64_t down, int64_t across, const T* b, T* out, T factor = 1, const T* base = nullptr,
                 T keep = 1) const {
        for (int64_t i = 0; i < n; i += HIGH) {
            int64_t j = 0;
            for (; j + L < line; j += 2 * L) tile<2>(a + i * down, down, across, b + j, i * line + j, out, factor, base, keep);
            if (j < line) tile<1>(a + i * down, down, across, b + j, i * line + j, out, factor, base, keep);
        }
    }
    void multiply(const T* a, const T* b, T* out, T factor = 1, const T* base = nullptr, T keep = 1) const {
        product(a, line, 1, b, out, factor, base, keep);
    }
    void gram(const T* a, T* out) const { product(a, 1, line, a, out); }

    // rows[i] -= factor[i * step] row for i from first to last, in the columns from one on.
    void subtract(T* matrix, const T* row, const T* factor, int64_t step, int64_t first, int64_t last,
                  int64_t column) const {
        for (int64_t v = column / L * L; v < line; v += L) {
            const Vec<T> own = read(row + v);
            for (int64_t i = first; i < last; ++i) {
                T* p = matrix + i * line + v;
                write<T>(p, read(p) - factor[i * step] * own);
            }
        }
    }

    void scale(T* row, T factor) const {
        for (int64_t v = 0; v < line; v += L) write<T>(row + v, factor * read(row + v));
    }

    // The largest sum of moduli in a row, a bound of the spectral norm of a skew-symmetric matrix.
    T largest_row(const T* a) const {
        T largest = 0;
        for (int64_t i = 0; i < n; ++i) {
            Vec<T> sums{};
            for (int64_t v = 0; v < line; v += L)
                sums += (Vec<T>)((Int<T>)read(a + i * line + v) & ~Vector<T>::sign);
            T total = 0;
            for (int64_t k = 0; k < L; ++k) total += sums[k];
            largest = std::max(largest, total);
        }
        return largest;
    }

    // The coordinates of (P - P^T) / 2, times a sign; a vector may be written past their end.
    void pack(const T* P, const T* transposed, T* c, T sign) const {
        const T factor = sign * static_cast<T>(0.70710678118654752440);
        for (int64_t i = 1; i < n; c += i++)
            for (int64_t j = 0; j < i; j += L)
                write<T>(c + j, factor * (read(P + i * line + j) - read(transposed + i * line + j)));
    }

    // The skew-symmetric matrix with these coordinates, times a factor; a vector may be read past their end.
    void unpack(const T* c, T* A, T times) const {
        const T factor = times * static_cast<T>(0.70710678118654752440);
        for (int64_t i = 0; i < n; c += i++)
            for (int64_t j = 0; j < i; j += L) write<T>(A + i * line + j, factor * read(c + j));
        for (int64_t i = 0; i < n; ++i) {
            A[i * line + i] = 0;
            for (int64_t j = 0; j < i; ++j) A[j * line + i] = -A[i * line + j];
            for (int64_t j = n; j < line; ++j) A[i * line + j] = 0;
        }
    }

  private:
    template <int N>
    inline __attribute__((always_inline)) void tile(const T* a, int64_t down, int64_t across, const T* b, int64_t at,
                                                    T* out, T factor, const T* base, T keep) const {
        Vec<T> acc[HIGH][N];
#pragma GCC unroll 8
        for (int m = 0; m < HIGH; ++m)
#pragma GCC unroll 2
            for (int v = 0; v < N; ++v) acc[m][v] = Vec<T>{};
        for (int64_t k = 0; k < n; ++k, a += across, b += line) {
            Vec<T> w[N];
#pragma GCC unroll 2
            for (int v = 0; v < N; ++v) w[v] = read(b + v * L);
#pragma GCC unroll 8
            for (int m = 0; m < HIGH; ++m)
#pragma GCC unroll 2
                for (int v = 0; v < N; ++v) acc[m][v] += a[m * down] * w[v];
        }
#pragma GCC unroll 8
        for (int m = 0; m < HIGH; ++m)
#pragma GCC unroll 2
            for (int v = 0; v < N; ++v) {
                const int64_t p = at + m * line + v * L;
                Vec<T> result = factor * acc[m][v];
                if (base) result += keep * read(base + p);
                write<T>(out + p, result);
            }
    }
};

}  // namespace
