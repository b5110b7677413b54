"""The group of unitary matrices."""

from .group import MatrixGroup


class Unitary(MatrixGroup):
    r"""The unitary group U(n): complex matrices with :math:`x^H x = I`.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of `retr`: ``"cayley"`` (default), ``"exp"``, ``"qr"``, ``"polar"``, or an object of
        `manifold_rnn.retractions`.

    Notes
    -----
    Tensors have shape (..., n, n); all axes except the last two are batch axes. Geometry and sources: `MatrixGroup`.

    Examples
    --------
    >>> x = mr.Unitary().random(4, 4)
    >>> assert x.dtype == torch.complex64 and mr.Unitary().defect(x) < 1e-5
    """

    name = "Unitary"
    is_complex = True
    is_orthonormal = True
