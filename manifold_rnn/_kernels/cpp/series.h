// Steps of orthogonal weights that fit into the second cache: the step's map is a short polynomial of its matrix.
//
// With A skew-symmetric and S = A^2, the map is I + even(S) + A + A odd(S). The first sum is symmetric and the second
// skew-symmetric, so one half of each is computed.

#pragma once

#include "coordinates.h"
#include "halves.h"
#include "steps.h"

namespace {

constexpr double FAR = 0.25;  // of y^T y from the identity, up to where the series of its inverse root is short

template <class T>
class SeriesStepper {
  public:
    SeriesStepper(const Steps<T>& s, int64_t part)
        : s_(s), results_(s), n_(s.n), size_(s.n * s.n),
          scratch_(s.buffer + s.count * Results<T>::room(s.n) + part * work(s.n)), products_(s.n, scratch_),
          X_(scratch_ + Products<T>::room(s.n)), A_(X_ + size_), S_(A_ + size_), E_(S_ + size_), K_(E_ + size_),
          Y_(K_ + size_), c_(Y_ + size_) {}

    static int64_t work(int64_t n) {
        return Results<T>::whole(Products<T>::room(n) + 6 * n * n + Results<T>::coordinates(n));
    }

    // Write what weight i and its moments become to the results; false if the step is not sound or too long for this.
    bool prepare(int64_t i) {
        const T* x = s_.x[i];
        if (s_.x_by_columns) {
            transpose(x, X_);
            x = X_;
        }
        products_.pack(s_.g_by_columns ? Matrix<T>{s_.g[i], 1, n_} : Matrix<T>{s_.g[i], n_, 1});
        products_.multiply({x, 1, n_}, Y_);
        pack(Y_, c_, n_, static_cast<T>(s_.numbers[SIGN]));
        if (!has_squares<T>(sum_of_squares(c_, Results<T>::coordinates(n_)))) return false;
        results_.direction(i, c_);
        unpack(c_, A_, n_, static_cast<T>(s_.numbers[RATE]));
        if (s_.retraction == POLAR || s_.retraction == QR) {
            add_product({x, n_, 1}, A_, x, Y_);
            return s_.retraction == POLAR ? normalize(i) : factor(i);
        }
        if (!map()) return false;
        T* out = s_.polish || s_.x_by_columns ? Y_ : results_.weight(i);
        add_product({x, n_, 1}, E_, x, out);
        if (s_.polish) return polish(i);
        if (s_.x_by_columns) transpose(Y_, results_.weight(i));
        return true;
    }

  private:
    // Coefficients of the powers of a matrix, from the first power on, and how many of them are needed.
    struct Terms {
        static constexpr int64_t MOST = 12;
        double c[MOST] = {};
        int64_t degree = 0;

        // At least so many, and as many as bring the next term below a bound; `coefficient` gives them.
        template <class Coefficient>
        Terms(int64_t least, double size, double bound, const Coefficient& coefficient) {
            double power = size;
            for (; degree <= MOST; ++degree, power *= size) {
                const double next = coefficient(degree + 1);
                if (degree >= least && std::abs(next) * power <= bound) return;
                if (degree < MOST) c[degree] = next;
            }
        }
        bool fit() const { return degree <= MOST; }
    };

    const Steps<T>& s_;
    const Results<T> results_;
    const int64_t n_, size_;
    T* const scratch_;
    Products<T> products_;
    T *const X_, *const A_, *const S_, *const E_, *const K_, *const Y_, *const c_;

    void transpose(const T* from, T* to) const {
        for (int64_t i0 = 0; i0 < n_; i0 += TILE)
            for (int64_t j0 = 0; j0 < n_; j0 += TILE)
                for (int64_t i = i0; i < std::min(n_, i0 + TILE); ++i)
                    for (int64_t j = j0; j < std::min(n_, j0 + TILE); ++j) to[j * n_ + i] = from[i * n_ + j];
    }

    // out = base + a B.
    void add_product(Matrix<T> a, const T* B, const T* base, T* out) {
        products_.pack({B, n_, 1});
        products_.multiply(a, false, [&](int64_t i, int64_t j, Vec<T> v, int64_t lanes) {
            write(out + i * n_ + j, v + read(base + i * n_ + j, lanes), lanes);
        });
    }

    // out = sum of the powers of a symmetric matrix with these coefficients, by Horner's rule; `other` is memory.
    void polynomial(const Terms& terms, const T* matrix, T* out, T* other) {
        if (terms.degree == 0) return void(std::fill_n(out, size_, T(0)));
        if (terms.degree % 2 == 0) std::swap(out, other);  // each product goes from one to the other
        const T last = static_cast<T>(terms.c[terms.degree - 1]);
        for (int64_t p = 0; p < size_; ++p) out[p] = last * matrix[p];
        if (terms.degree > 1) products_.pack({matrix, n_, 1});
        for (int64_t k = terms.degree - 2; k >= 0; --k) {
            const T factor = static_cast<T>(terms.c[k]);
            products_.multiply({out, n_, 1}, true, [&](int64_t i, int64_t j, Vec<T> v, int64_t lanes) {
                write(other + i * n_ + j, v + factor * read(matrix + i * n_ + j, lanes), lanes);
            });
            Products<T>::mirror(n_, other, [](T below) { return below; });
            std::swap(out, other);
        }
    }

    // E = phi(A) - I for the exponential or the Cayley transform; false if the step is too long, or not finite.
    bool map() {
        products_.pack({A_, n_, 1});
        products_.multiply_half({A_, n_, 1}, T(1), S_);
        const double square = std::sqrt(0.5 * sum_of_squares(S_, size_));  // real eigenvalues come in pairs
        if (!(square < 1)) return false;
        const double unit = 0.25 * std::numeric_limits<T>::epsilon(), size = std::sqrt(square);
        const bool exp = s_.retraction == EXP;
        const auto factorial = [](int64_t k) { return 1 / std::tgamma(k + 1.0); };
        // 2 (I - S/4)^(-1) - I and (I - S/4)^(-1) have the same series, but for a factor
        const Terms odd(0, square, exp ? unit / std::max(size, 1e-300) : unit / 2,
                        [&](int64_t k) { return exp ? factorial(2 * k + 1) : std::pow(0.25, k); });
        const Terms even(0, square, unit, [&](int64_t k) { return factorial(2 * k); });
        if (!odd.fit() || !even.fit()) return false;
        const T* K = A_;
        polynomial(odd, S_, E_, K_);
        if (odd.degree) {
            products_.pack({E_, n_, 1});
            products_.multiply({A_, n_, 1}, true, [&](int64_t i, int64_t j, Vec<T> v, int64_t lanes) {
                write(K_ + i * n_ + j, v + read(A_ + i * n_ + j, lanes), lanes);
            });
            Products<T>::mirror(n_, K_, [](T below) { return -below; });
            K = K_;
        }
        if (exp) polynomial(even, S_, E_, Y_);
        const T twice = exp ? 1 : 2;
        for (int64_t p = 0; p < size_; ++p) E_[p] = twice * E_[p] + K[p];
        return true;
    }

    // S = Y^T Y - I; its norm is returned.
    double gram() {
        products_.pack({Y_, n_, 1});
        products_.multiply_half({Y_, 1, n_}, T(1), S_);
        for (int64_t k = 0; k < n_; ++k) S_[k * (n_ + 1)] -= 1;
        return std::sqrt(sum_of_squares(S_, size_));
    }

    // Y + Y B goes to the results.
    bool finish(const T* B, int64_t i) {
        T* out = s_.x_by_columns ? E_ : results_.weight(i);
        add_product({Y_, n_, 1}, B, Y_, out);
        if (s_.x_by_columns) transpose(E_, results_.weight(i));
        return true;
    }

    // Y <- Y + Y B.
    void multiply_by(const T* B) {
        add_product({Y_, n_, 1}, B, Y_, E_);
        std::copy_n(E_, size_, Y_);
    }

    // One step of Newton-Schulz, as the rule of torch makes it.
    bool polish(int64_t i) {
        if (!(gram() < FAR)) return false;
        for (int64_t p = 0; p < size_; ++p) S_[p] *= T(-0.5);
        return finish(S_, i);
    }

    // Y (Y^T Y)^(-1/2) by its series in S, whose first two terms are those of Newton-Schulz; from afar twice.
    bool normalize(int64_t i) {
        constexpr int64_t SHORT = 4, FIRST_DEGREE = 3;
        for (double far = gram(); far < FAR; far = gram()) {
            double c = 1;
            Terms terms(1, far, (1 - far) * rounding<T>(n_), [&](int64_t k) { return c *= -(2 * k - 1) / (2.0 * k); });
            const bool last = terms.degree <= SHORT;
            if (!last) terms.degree = FIRST_DEGREE;
            polynomial(terms, S_, A_, K_);
            if (last) return finish(A_, i);
            multiply_by(A_);
        }
        return false;
    }

    // The factor with orthonormal columns, by factors I - U where U + U^T = S: a product of such ones is triangular.
    bool factor(int64_t i) {
        for (double far = gram(); far < FAR; far = gram()) {
            for (int64_t r = 0; r < n_; ++r) {
                std::fill_n(A_ + r * n_, r, T(0));
                A_[r * (n_ + 1)] = T(-0.5) * S_[r * (n_ + 1)];
                for (int64_t c = r + 1; c < n_; ++c) A_[r * n_ + c] = -S_[r * n_ + c];
            }
            // since |U| is at most |S| / 2^(1/2)
            if (1.92 * far * far + 0.5 * far * far * far <= rounding<T>(n_)) return finish(A_, i);
            multiply_by(A_);
        }
        return false;
    }
};

}  // namespace
