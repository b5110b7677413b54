"""The errors of the package: one root class and a few kinds. Each kind also inherits from a built-in error.

Every message says what is wrong, what was expected, what was received and what to do, in at most 400 characters.
"""

__all__ = [
    "CheckError",
    "DeviceError",
    "DtypeError",
    "ManifoldError",
    "NonFiniteError",
    "OffManifoldError",
    "OptimizerError",
    "OptionError",
    "ShapeError",
    "UnsupportedError",
]


class ManifoldError(Exception):
    """Root of every error that this package raises on purpose.

    Examples
    --------
    >>> from manifold_rnn.errors import ManifoldError, ShapeError
    >>> assert issubclass(ShapeError, ManifoldError) and issubclass(ShapeError, ValueError)
    """


class ShapeError(ManifoldError, ValueError):
    """A tensor has a shape for which the operation is not defined.

    Examples
    --------
    >>> try: mr.Orthogonal().projx(torch.ones(3, 2))
    ... except mr.errors.ShapeError as error: assert "square" in str(error)
    """


class DtypeError(ManifoldError, TypeError):
    """A tensor has a dtype that the operation refuses, such as integers, or real where complex is needed.

    Examples
    --------
    >>> try: mr.linalg.skew(torch.ones(2, 2, dtype=torch.int64))
    ... except mr.errors.DtypeError as error: assert "int64" in str(error)
    """


class DeviceError(ManifoldError, ValueError):
    """Two tensors of one operation are on different devices.

    Examples
    --------
    >>> try: mr.Orthogonal().retr(torch.eye(2), torch.empty(2, 2, device="meta"))
    ... except mr.errors.DeviceError as error: assert "meta" in str(error)
    """


class NonFiniteError(ManifoldError, ArithmeticError):
    """A tensor contains NaN or infinity where finite numbers are required.

    Examples
    --------
    >>> try: mr.Orthogonal().projx(torch.full((2, 2), torch.nan))
    ... except mr.errors.NonFiniteError as error: assert "4 of 4" in str(error)
    """


class OffManifoldError(ManifoldError, ValueError):
    """A tensor is not on the manifold, or is outside the domain of an inverse map.

    Examples
    --------
    >>> try: mr.Orthogonal("cayley").logmap(torch.eye(2), -torch.eye(2))
    ... except mr.errors.OffManifoldError as error: assert "-1" in str(error)
    """


class OptionError(ManifoldError, ValueError):
    """An option has a value that is unknown or out of range; the message lists the valid ones.

    Examples
    --------
    >>> try: mr.Orthogonal("caley")
    ... except mr.errors.OptionError as error: assert "cayley" in str(error)
    """


class UnsupportedError(ManifoldError, NotImplementedError):
    """The operation has no meaning or no implementation here; the message says what to use instead.

    Examples
    --------
    >>> try: mr.retractions.get("cayley").order(object())
    ... except mr.errors.UnsupportedError as error: assert "order" in str(error)
    """


class OptimizerError(ManifoldError, RuntimeError):
    """An optimizer would move a parameter off its manifold.

    Examples
    --------
    >>> layer = mr.constrain(torch.nn.Linear(2, 2), "weight", mr.Orthogonal())
    >>> try: layer(torch.ones(2)).sum().backward(), torch.optim.SGD(layer.parameters(), 0.1).step()
    ... except mr.errors.OptimizerError as error: assert "weight" in str(error)
    """


class CheckError(ManifoldError, AssertionError):
    """A check of `manifold_rnn.testing` measured an error above its tolerance.

    Examples
    --------
    >>> import geoopt
    >>> try: mr.testing.check_retraction(geoopt.CanonicalStiefel(), strict=True)
    ... except mr.errors.CheckError as error: assert "CanonicalStiefel" in str(error)
    """
