"""Pictures of one number a head: maps of layers by heads, red above zero and blue below."""
from html import escape

CELL, GAP, LEFT, TOP = 11, 34, 46, 74


def _colour(share):
    """Of -1 (blue) to 1 (red)."""
    to = (176, 42, 32) if share > 0 else (32, 84, 160)
    return "#" + "".join(f"{round(244 + abs(share) ** 0.6 * (x - 244)):02x}" for x in to)


def _map(title, values, left, most, named):
    layers, heads = len(values), len(values[0])
    out = [f'<text x="{left}" y="{TOP - 26}" font-weight="600">{escape(title)}</text>']
    label = lambda x, y, text, anchor: f'<text x="{x}" y="{y}" class="s" text-anchor="{anchor}">{text}</text>'
    out += [label(left + CELL * h + CELL // 2, TOP - 6, h, "middle") for h in range(0, heads, 2 if heads > 9 else 1)]
    if named:
        out += [label(left - 5, TOP + CELL * row + 9, row, "end") for row in range(0, layers, 2)]
    out.append(f'<rect x="{left}" y="{TOP}" width="{CELL * heads}" height="{CELL * layers}" fill="#f4f4f4"/>')
    for row, line in enumerate(values):
        for head, value in enumerate(line):
            share = max(-1.0, min(1.0, value / most))
            if abs(share) >= 0.02:  # what is paler is as good as nothing
                out.append(f'<path d="M{left + CELL * head} {TOP + CELL * row}h10v10h-10z" fill="{_colour(share)}">'
                           f"<title>{row}.{head}: {value:+.2f}</title></path>")
    return out


def head_maps(title, maps, most=None):
    """SVG of maps (title, [layers][heads]) side by side; the colours are full at `most`, by default the largest there is."""
    most = most or max([abs(x) for _, values in maps for line in values for x in line], default=0) or 1
    widths = [max(CELL * len(values[0]), round(6.2 * len(name))) for name, values in maps]
    height = TOP + CELL * max([len(values) for _, values in maps], default=0) + 40
    width = max(LEFT + sum(widths) + GAP * len(maps), round(8 * len(title)) + 20)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="12" fill="#223"><style>.s{font-size:9px;fill:#667}</style>',
           f'<rect width="{width}" height="{height}" fill="#fff"/>',
           f'<text x="12" y="24" font-size="15" font-weight="600">{escape(title)}</text>']
    left = LEFT
    for i, (name, values) in enumerate(maps):
        out += _map(name, values, left, most, i == 0 or len(values) != len(maps[i - 1][1]))
        left += widths[i] + GAP
    x, y = LEFT, height - 24
    for step in (-1, -0.5, -0.1, 0.1, 0.5, 1):
        out.append(f'<path d="M{x} {y}h10v10h-10z" fill="{_colour(step)}"/><text x="{x + 13}" y="{y + 9}" class="s">'
                   f"{step * most:+.3g}</text>")
        x += 52
    return "\n".join(out) + "\n</svg>\n"
