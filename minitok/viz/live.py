"""What a notebook's output holds: a small still picture, an animation, a control that redraws a figure."""

import base64
import html
import inspect
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from minitok.viz.palette import style

if TYPE_CHECKING:
    import IPython.display
    import ipywidgets
    import matplotlib.figure


def show(figure: "matplotlib.figure.Figure", photo: bool = False, alt: str = "") -> "IPython.display.Image":
    """The figure as a picture for the last line of a cell: PNG, or JPEG where `photo` is true and that is smaller.

    `alt` is the text for readers who do not see it; by default the figure's title.
    """
    from IPython.display import Image

    titles = [figure.get_suptitle(), *(axes.get_title("left") or axes.get_title() for axes in figure.axes)]
    alt = alt or next(filter(None, titles), "")
    picture = _pixels(figure)
    png, jpeg = _png(picture), _encoded(picture, "JPEG", quality=75, optimize=True)
    if photo and len(jpeg) < len(png):
        return Image(data=jpeg, format="jpeg", alt=alt)
    return Image(data=png, format="png", alt=alt)


def _png(picture: Any) -> bytes:
    # A drawing is made of few colours: 256 of them show no loss and take a third of the bytes.
    counts = sorted((count for count, _ in picture.getcolors(picture.width * picture.height)), reverse=True)
    drawing = sum(counts[:256]) > 0.95 * sum(counts)
    return _encoded(picture.quantize(256, dither=0) if drawing else picture, "PNG", optimize=True)


def _encoded(picture: Any, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def animation(
    frames: Float[Tensor, "t 3 H W"] | Sequence["matplotlib.figure.Figure"],
    seconds: float | int = 4.0,
    scale: int = 4,
    alt: str = "",
    kilobytes: int = 60,
) -> "IPython.display.Image":
    """A GIF of all frames that lasts `seconds` and loops.

    Frames of a tensor are shown `scale` times enlarged, figures in their own size. All frames share one
    palette, so nothing flickers; it has as many colours, from 128 down to 8, as keep the file within
    `kilobytes` (of 1,000 bytes); `ValueError` when none does. A frame that equals the one before it is
    stored as a longer pause.
    """
    pictures = _pictures(frames)
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1:
        raise ValueError(f"frames has {len(pictures)} frames of {len(sizes)} sizes, expected frames of one size")
    pause = round(1000 * seconds / len(pictures))
    if pause < 20:
        raise ValueError(f"seconds={seconds} is too short: browsers slow down frames of less than 20 ms")
    for colours in (128, 64, 32, 16, 8):
        gif = _gif(pictures, pause, colours)
        if len(gif) <= 1000 * kilobytes:
            width = pictures[0].width * (scale if isinstance(frames, Tensor) else 1)
            return _pixelated(gif, width, alt)
    raise ValueError(f"kilobytes={kilobytes}, but the frames take {len(gif) / 1000:.0f}: fewer or smaller frames")


def slider(draw: Callable[..., Any], **ranges: Any) -> "ipywidgets.VBox":
    """One control a keyword, above the picture that `draw(**values)` returns: a Figure, or what `show` gives.

    A range is `(low, high)` or `(low, high, step)`, of whole numbers or not, or a list of choices. A
    control starts at the keyword's default in `draw`, else in the middle. An error of `draw` is shown below
    the picture and raised.
    """
    import ipywidgets
    from IPython.display import Image

    if not ranges:
        raise ValueError("ranges is empty: a slider needs at least one keyword of draw")
    defaults = {p.name: p.default for p in inspect.signature(draw).parameters.values() if p.default is not p.empty}
    controls = {name: _control(name, spec, defaults.get(name)) for name, spec in ranges.items()}
    # Without this layout the picture would be stretched to the width of the page.
    natural = {"align_self": "flex-start", "max_width": "100%"}
    picture, message = ipywidgets.Image(format="png", layout=natural), ipywidgets.HTML()

    def redraw(change: Any = None) -> None:
        try:
            drawn = draw(**{name: control.value for name, control in controls.items()})
            image = drawn if isinstance(drawn, Image) else show(drawn)
        except Exception as error:
            message.value = f'<b style="color: #D55E00">{type(error).__name__}: {html.escape(str(error))}</b>'
            raise
        picture.format, picture.value, message.value = image.format, image.data, ""

    redraw()
    for control in controls.values():
        control.observe(redraw, "value")
    box = ipywidgets.VBox([*controls.values(), picture, message])
    box.add_class("widget-interact")
    return box


def ends(box: "ipywidgets.VBox") -> None:
    """Moves each control of a `slider` to both ends and back; raises what the callback raises."""
    for control in box.children[:-2]:
        start, choices = control.value, hasattr(control, "options")
        for end in (0, len(control.options) - 1) if choices else (control.min, control.max):
            setattr(control, "index" if choices else "value", end)
        control.value = start


def _control(name: str, spec: Any, start: Any) -> "ipywidgets.ValueWidget":
    import ipywidgets

    look = {
        "description": name.replace("_", " "),
        "continuous_update": False,
        "style": {"description_width": "initial"},
    }
    if isinstance(spec, list) and spec:
        start = spec[len(spec) // 2] if start is None else start
        if start not in spec:
            raise ValueError(f"{name} starts at {start!r}, expected one of {spec}")
        return ipywidgets.SelectionSlider(options=spec, value=start, **look)
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or spec[0] >= spec[1]:
        raise ValueError(f"{name}={spec!r}, expected (low, high), (low, high, step) or a list of choices")
    low, high = spec[:2]
    whole = all(isinstance(number, int) for number in spec)
    step = spec[2] if len(spec) == 3 else 1 if whole else (high - low) / 20
    start = low + int((high - low) / step / 2) * step if start is None else start
    if not low <= start <= high:
        raise ValueError(f"{name} starts at {start}, expected {low} to {high}")
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(value=start, min=low, max=high, step=step, **look)


def _pixels(figure: "matplotlib.figure.Figure") -> Any:
    """The figure as an RGB picture of Pillow's."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    # Matplotlib makes ticks at the first drawing, with the settings of that moment.
    with style():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")


def _pictures(frames: Any) -> list[Any]:
    from PIL import Image

    if not isinstance(frames, Tensor):
        return [_pixels(figure) for figure in frames]
    pixels = (frames.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(frame.contiguous().numpy()) for frame in pixels]


def _gif(pictures: list[Any], pause: int, colours: int) -> bytes:
    from PIL import Image

    w, h = pictures[0].size
    strip = Image.new("RGB", (w, h * len(pictures)))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (0, i * h))
    palette, buffer = strip.quantize(colours, dither=Image.Dither.NONE), io.BytesIO()
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=pause, loop=0, optimize=True)
    return buffer.getvalue()


def _pixelated(gif: bytes, width: int, alt: str) -> "IPython.display.Image":
    """An image that the browser enlarges without blur, as HTML, since nbconvert knows no image/gif."""
    from IPython.display import Image

    class Animation(Image):
        def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
            source = base64.b64encode(gif).decode()
            look = f'width="{width}" alt="{html.escape(alt)}" style="image-rendering: pixelated"'
            return {"text/html": f'<img src="data:image/gif;base64,{source}" {look}>'}

    return Animation(data=gif, format="gif", width=width, alt=alt)
