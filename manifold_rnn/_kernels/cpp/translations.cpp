// A point times a map of a skew-symmetric matrix that is the sum of an even and an odd polynomial, and its adjoints.
//
// Even polynomials of a skew-symmetric matrix are symmetric and odd ones skew-symmetric, so one half of each is computed.

#include <algorithm>
#include <cmath>
#include <utility>

#include "coordinates.h"
#include "exports.h"
#include "halves.h"

namespace {

template <class T>
void add_diagonal(int64_t n, T* x, T by) {
    for (int64_t i = 0; i < n; ++i) x[i * (n + 1)] += by;
}

// The polynomial of degree d >= 1 of a symmetric S whose powers up to q lie side by side, by Horner's rule in S^q, which
// is packed: `out` and `other` are memory; the result is in the one that is returned.
template <class T>
T* polynomial(Products<T>& products, int64_t n, const double* c, int64_t d, const T* powers, int64_t q, T* out,
              T* other) {
    const int64_t size = n * n;
    int64_t start = q * ((d - 1) / q), end = d;
    const auto block = [&](T* P, bool fresh) {
        for (int64_t k = start + 1; k <= (fresh ? end : end - 1); ++k) {
            const T* power = powers + (k - start - 1) * size;
            const T factor = static_cast<T>(c[k]);
            if (fresh && k == start + 1)
                for (int64_t i = 0; i < size; ++i) P[i] = factor * power[i];
            else
                for (int64_t i = 0; i < size; ++i) P[i] += factor * power[i];
        }
        add_diagonal(n, P, static_cast<T>(c[start]));
    };
    block(out, true);
    while (start) {
        products.multiply_half({out, n, 1}, T(1), other);
        std::swap(out, other);
        end = start;
        start -= q;
        block(out, false);
    }
    return out;
}

// Half of the matrix with these coordinates, and its square, go to `work`; returns the Frobenius norm of the square.
template <class T>
double halve_and_square(const T* c, T* work, int64_t n) {
    T *B = work + Products<T>::room(n), *S = B + n * n;
    unpack(c, B, n, T(0.5));
    Products<T> products(n, work);
    products.pack({B, n, 1});
    products.multiply_half({B, n, 1}, T(1), S);
    return std::sqrt(sum_of_squares(S, n * n));
}

// out = in - in^T.
template <class T>
void skew(int64_t n, const T* in, T* out) {
    tiles(n, [&](int64_t i0, int64_t j0, int64_t rows, int64_t columns) {
        T above[TILE][TILE] = {};
        for (int64_t j = 0; j < columns; ++j)
            for (int64_t i = 0; i < rows; ++i) above[i][j] = in[(j0 + j) * n + i0 + i];
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) out[(i0 + i) * n + j0 + j] = in[(i0 + i) * n + j0 + j] - above[i][j];
    });
    Products<T>::mirror(n, out, [](T below) { return -below; });
}

constexpr int64_t MATRICES = 9;  // of memory for a call, besides a right factor

}  // namespace

template <class T>
struct Translation {
    int64_t n, even_degree, odd_degree, shared, twice;
    const T* x;
    T *W, *M, *Ft, *work;
    const double *even, *odd;
};

template <class T>
struct Adjoint {
    int64_t n, down, right, count;
    const T *g, *c, *M, *Ft;
    T *gc, *work;
    const double* terms;
};

namespace {

// F = even(S) + B odd(S) for the B and S = B^2 in `work`, and F^T; W = x F and M = x + W, or M = x F and W = M F.
template <class T>
void translate(const Translation<T>& t) {
    const int64_t n = t.n, size = n * n, degree = std::max(t.even_degree, t.odd_degree);
    int64_t q = 1;
    while (q * q < degree) ++q;
    T *B = t.work + Products<T>::room(n), *powers = B + size, *memory = powers + q * size;
    Products<T> products(n, t.work);
    for (const T* matrix : {static_cast<const T*>(t.W), static_cast<const T*>(t.M), t.x, static_cast<const T*>(t.Ft)})
        products.fetch(matrix);
    if (q > 1) products.pack({powers, n, 1});
    for (int64_t k = 1; k < q; ++k) products.multiply_half({powers + (k - 1) * size, n, 1}, T(1), powers + k * size);
    if (degree > q) products.pack({powers + (q - 1) * size, n, 1});
    T* E = polynomial(products, n, t.shared ? t.odd : t.even, t.even_degree, powers, q, memory, memory + size);
    const T* odd = E;
    if (!t.shared && t.odd_degree)
        odd = polynomial(products, n, t.odd, t.odd_degree, powers, q, E == memory ? memory + size : memory,
                         memory + 2 * size);
    T* K = powers;  // which are done with
    if (t.shared || t.odd_degree) {
        products.pack({odd, n, 1});
        products.multiply_half({B, n, 1}, T(-1), K);
    } else {
        for (int64_t i = 0; i < size; ++i) K[i] = static_cast<T>(t.odd[0]) * B[i];
    }
    if (t.shared) add_diagonal(n, E, static_cast<T>(t.even[0] - t.odd[0]));
    for (int64_t i = 0; i < size; ++i) {
        const T symmetric = E[i];
        E[i] = symmetric + K[i];
        t.Ft[i] = symmetric - K[i];
    }
    products.pack({E, n, 1});
    if (t.twice) {
        products.multiply({t.x, n, 1}, t.M);
        products.multiply({t.M, n, 1}, t.W);
        return;
    }
    products.multiply({t.x, n, 1}, false, [&](int64_t i, int64_t j, Vec<T> v, int64_t lanes) {
        write(t.W + i * n + j, v, lanes);
        write(t.M + i * n + j, v + read(t.x + i * n + j, lanes), lanes);
    });
}

// The coordinates of (I + C^T) x^T g (I + C^T) / 4, from M = x + x C and C^T.
template <class T>
void adjoint_of_cayley(const Adjoint<T>& t) {
    const int64_t n = t.n;
    T *K = t.work + Products<T>::room(n), *R = K + n * n;
    Products<T> products(n, t.work);
    for (int64_t i = 0; i < n * n; i += 64 / sizeof(T)) __builtin_prefetch(t.M + i, 0, 2);
    products.fetch(t.Ft);
    products.pack({t.g, t.down, t.right});
    products.multiply({t.M, 1, n}, K);
    products.pack({t.Ft, n, 1});
    products.multiply({K, n, 1}, false, [&](int64_t i, int64_t j, Vec<T> v, int64_t lanes) {
        write(R + i * n + j, v + read(K + i * n + j, lanes), lanes);
    });
    pack(R, t.gc, n, T(0.25));
}

// The coordinates of a polynomial in ad_B^2 of the skew-symmetric part of M^T g E^T, from E^T and M = x E.
template <class T>
void adjoint_of_exponential(const Adjoint<T>& t) {
    const int64_t n = t.n, size = n * n;
    T *B = t.work + Products<T>::room(n), *H = B + size, *K = H + size, *Y = K + size;
    Products<T> products(n, t.work);
    products.fetch(t.M);
    unpack(t.c, B, n, T(0.5));
    products.pack({t.Ft, n, 1});
    products.multiply({t.g, t.down, t.right}, Y);
    products.pack({Y, n, 1});
    products.multiply({t.M, 1, n}, K);
    skew(n, K, H);  // twice the skew-symmetric part
    std::copy_n(H, size, K);
    T scale = static_cast<T>(t.terms[t.count - 1]);
    for (int64_t k = t.count - 2; k >= 0; --k) {
        products.pack({K, n, 1});
        products.multiply({B, n, 1}, Y);
        skew(n, Y, K);
        products.pack({K, n, 1});
        const T half = static_cast<T>(0.5 * t.terms[k]);
        products.multiply({B, n, 1}, false, [&](int64_t i, int64_t j, Vec<T> v, int64_t lanes) {
            write(Y + i * n + j, scale * v + half * read(H + i * n + j, lanes), lanes);
        });
        skew(n, Y, K);
        scale = 1;
    }
    pack(K, t.gc, n, scale / 2);  // of a matrix that is skew-symmetric already
}

}  // namespace

extern "C" {
EXPORTED int64_t translation_room_float(int64_t n) { return Products<float>::room(n) + MATRICES * n * n; }
EXPORTED int64_t translation_room_double(int64_t n) { return Products<double>::room(n) + MATRICES * n * n; }
EXPORTED double halve_and_square_float(const float* c, float* work, int64_t n) { return halve_and_square(c, work, n); }
EXPORTED double halve_and_square_double(const double* c, double* work, int64_t n) {
    return halve_and_square(c, work, n);
}
EXPORTED void translate_float(const Translation<float>* t) { translate(*t); }
EXPORTED void translate_double(const Translation<double>* t) { translate(*t); }
EXPORTED void adjoint_of_cayley_float(const Adjoint<float>* t) { adjoint_of_cayley(*t); }
EXPORTED void adjoint_of_cayley_double(const Adjoint<double>* t) { adjoint_of_cayley(*t); }
EXPORTED void adjoint_of_exponential_float(const Adjoint<float>* t) { adjoint_of_exponential(*t); }
EXPORTED void adjoint_of_exponential_double(const Adjoint<double>* t) { adjoint_of_exponential(*t); }
}
