r"""
Geodesics and retractions
=========================

A geodesic is the straightest curve on a manifold. A retraction replaces it by a curve that is cheaper to compute. Both
have the same starting point and the same initial direction. The figure shows both on the sphere, and the distance
between their ends.
"""

import matplotlib.pyplot as plt
import torch

import manifold_rnn as mr

NAMES = {"exp": "exponential", "cayley": "Cayley", "polar": "polar"}  # QR is polar on a sphere

# %%
# The point is the pole of the sphere. The tangent vector has length 2.2, which is an angle of 126 degrees.

x = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
u = torch.tensor([2.2, 0.0, 0.0], dtype=torch.float64)
manifolds = {name: mr.Sphere(retraction=name) for name in NAMES}
for name, manifold in manifolds.items():
    y = manifold.retr(x, u)
    angle = torch.rad2deg(torch.atan2(y[0], y[2]))
    print(f"{NAMES[name]:12} ends at an angle of {angle:5.1f} degrees, length {y.norm():.6f}")

# %%
# All retractions stay on the great circle in the direction of u, but they move by different angles. The polar
# retraction projects x + u, and never reaches 90 degrees.

figure, axis = plt.subplots(figsize=(5, 4))
circle = torch.linspace(-0.4, 3.6, 200)
axis.plot(circle.sin(), circle.cos(), color="lightgray", linewidth=6, label="sphere")
axis.plot([0, 2.2], [1, 1], color="black", linewidth=1, label="tangent vector u")
for (name, manifold), marker in zip(manifolds.items(), "os^", strict=True):
    ends = torch.stack([manifold.retr(x, t * u) for t in torch.linspace(0, 1, 6).tolist()])
    axis.plot(ends[:, 0], ends[:, 2], marker, label=NAMES[name], markersize=9 - 2 * "os^".index(marker))
axis.set(xlabel="first coordinate", ylabel="third coordinate", title="Six steps along u", aspect="equal")
axis.legend(loc="lower left", fontsize=8)
figure.tight_layout()

# %%
# On the orthogonal group the curves leave the geodesic. The distance grows with the third power of the step size for
# retractions of order 2. For QR, which has order 1, it grows with the second power.

generator = torch.Generator().manual_seed(0)
W = mr.SpecialOrthogonal().random(8, 8, dtype=torch.float64, generator=generator)
A = mr.linalg.skew(torch.randn(8, 8, dtype=torch.float64, generator=generator))
V = W @ A / torch.linalg.matrix_norm(A, 2)
steps = torch.logspace(-2, 0, 30, dtype=torch.float64)
figure, axis = plt.subplots(figsize=(5, 4))
for name in ("cayley", "polar", "qr"):
    group = mr.SpecialOrthogonal(name)
    axis.loglog(steps, [float((group.retr(W, t * V) - group.expmap(W, t * V)).norm()) for t in steps], label=name)
    print(f"{name:8} order {group.retraction.order(group)}")
axis.set(xlabel="step size, radians", ylabel="distance from the geodesic", title="Orthogonal 8 x 8 matrices")
axis.legend()
figure.tight_layout()
