"""Searches for trees written as plain loops over the candidates of one sample, and what to compare them with."""

import torch

from manifold_rnn.nn import gate, mod_tanh, split_relu

LEAVES = ("x", "h", "zero")


def clipped(z):
    return z / z.abs().clamp(min=1)


ACTIVATIONS = {
    "sigmoid": lambda z: gate(z).to(z.dtype),
    "tanh": mod_tanh,
    "one_minus": lambda z: 1 - clipped(z),
    "identity": clipped,
    "relu": lambda z: split_relu(clipped(z)),
}


def matrices(cell, w):
    """L, R and b of every slot, the identity last."""
    n = w["weight_hh"].shape[-1]
    blocks = w["weight_hh"].split(n)
    eye = torch.eye(n, dtype=blocks[0].dtype)
    own = [(blocks[2 * k], blocks[2 * k + 1], w["bias"][k * n : (k + 1) * n]) for k in range(cell.slots - 1)]
    return [*own, (eye, eye, torch.zeros_like(w["bias"][:n]))]


def naive_search(cell, w, x, h):
    """One step for one sample: the state, the structure and the margins."""
    slots, N = matrices(cell, w), cell.nodes
    sources = [("x", w["weight_ih"] @ x), ("h", h), ("zero", torch.zeros_like(h))]
    trees, structure, margins, value = [], [], [], h
    for r in range(N):
        every = [*sources, *trees]
        scored = []
        for f in cell.activations:
            for op in ("add", "mul"):
                for i in range(len(every)):
                    for j in range(i + 1, len(every)):
                        after = len(trees) + 1 - (i > 2) - (j > 2)
                        products_of_zero = op == "mul" and 2 in (i, j)
                        if op not in cell.ops or products_of_zero or after > N - r:
                            continue
                        for k in range(cell.slots) if r > 1 else [min(r, cell.slots - 2)]:
                            L, R, b = slots[k]
                            a, c = L @ every[i][1], R @ every[j][1]
                            v = ACTIVATIONS[f]((a + c if op == "add" else a * c) + b)
                            scored.append(((v @ w["scorer"].conj()).real, v, (i, j, k, op, f)))
        scores = torch.stack([score for score, _, _ in scored])
        first, second = scores.topk(2).values
        margins.append(first - second)
        _, value, (i, j, k, op, f) = scored[int(scores.argmax())]
        if cell.choice == "soft":
            shares = (scores / cell.temperature).softmax(0)
            value = sum(p * v for p, (_, v, _) in zip(shares, scored, strict=True))
        slot = "identity" if k == cell.slots - 1 else k
        structure.append((every[i][0], every[j][0], slot, op, f))
        if j < 3:
            trees.append((r, value))
        elif i < 3:
            trees[j - 3] = (r, value)
        else:
            trees[i - 3] = (r, value)
            last = trees.pop()
            if j - 3 < len(trees):
                trees[j - 3] = last
    assert [number for number, _ in trees] == [N - 1]
    return value, tuple(structure), torch.stack(margins)


def naive_tree(nodes, blocks, biases, x_blocks, x, h):
    """The values of a fixed tree, from matrices and input blocks by their names."""
    values, zero = [], torch.zeros_like(h)
    for left, right, slot, op, f in nodes:
        products = []
        for child, side in ((left, "L"), (right, "R")):
            name = f"{side}{slot}" if slot != "identity" else "identity"
            if child == "x":
                products.append(x_blocks[name] @ x)
                continue
            v = {"h": h, "zero": zero}.get(child) if isinstance(child, str) else values[child]
            products.append(v if slot == "identity" or child == "zero" else blocks[name] @ v)
        z = products[0] + products[1] if op == "add" else products[0] * products[1]
        values.append(ACTIVATIONS[f](z if slot == "identity" else z + biases[slot]))
    return values


def naive_distance(first, values, second, others):
    """The distance by the positions of the complete binary tree."""

    def placed(nodes, values, number, position):
        found = {position: values[number]}
        for side, child in enumerate(nodes[number][:2]):
            if not isinstance(child, str):
                found |= placed(nodes, values, child, 2 * position + side)
        return found

    a = placed(first, values, len(first) - 1, 1)
    b = placed(second, others, len(second) - 1, 1)
    zero = torch.zeros_like(next(iter(a.values())))
    return sum((a.get(p, zero) - b.get(p, zero)).abs().square().sum() for p in a.keys() | b.keys())
