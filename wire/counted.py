"""A number and what it counts, as a person says it."""


def counted(num: float, one: str) -> str:
    """`1 edge`, `2 edges`, `0 processes`: of a noun whose plural is regular, its last word if there are several."""
    return f"{num} {one}" if num == 1 else f"{num} {one}{'es' if one.endswith('s') else 's'}"
