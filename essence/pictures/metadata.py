"""What a picture says about itself: that an algorithm edited it, and how.

IPTC's digital source type and the software go into an XMP packet, which PNG, JPEG and WebP carry
and which photo programs and platforms read.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from PIL import Image, PngImagePlugin

# IPTC NewsCodes: a photograph with elements made by a trained algorithm; all of it made so.
EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SOFTWARE = "Essence"
# EXIF tags; maker notes may hold previews of the original.
ORIENTATION, SOFTWARE_TAG, MAKER_NOTE = 0x0112, 0x0131, 0x927C
# Says that the colours are sRGB (1), or not; and how cameras mark those of Adobe RGB.
COLOUR_SPACE, INTEROPERABILITY = 0xA001, 0xA005
FOLDERS = (0x8769, 0x8825)  # EXIF keeps exposure and place in tables of their own


def xmp_packet(names: Sequence[str], strengths: Sequence[float], photograph: bool = False) -> bytes:
    """The XMP of a picture made with these essences at these strengths; `photograph` where it is
    an edited photograph rather than the model's own picture.
    """
    pairs = zip(names, strengths, strict=True)
    text = "; ".join(f"{name} at strength {strength:g}" for name, strength in pairs)
    source = EDITED if photograph else GENERATED
    description = f"Edited by an algorithm with the essences: {text}." if text else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>"
        f"<xmp:CreatorTool>{SOFTWARE}</xmp:CreatorTool>"
        '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">'
        f"{escape(description)}</rdf:li></rdf:Alt></dc:description>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    ).encode()


def save_options(kind: str, xmp: bytes | None, exif: Image.Exif | None = None) -> dict:
    """Arguments of Pillow's `save` for a PNG, JPEG or WEBP that carries the packet, and the EXIF of
    the photograph that it was: upright and in sRGB now, and without a thumbnail of what it showed
    before.
    """
    options: dict = {}
    if exif is not None:
        kept = Image.Exif()
        for tag, value in exif.items():
            kept[tag] = value if tag not in FOLDERS else dict(exif.get_ifd(tag))
        if isinstance(kept.get(FOLDERS[0]), dict):
            kept[FOLDERS[0]].pop(MAKER_NOTE, None)
            kept[FOLDERS[0]].pop(INTEROPERABILITY, None)
            kept[FOLDERS[0]][COLOUR_SPACE] = 1
        kept.pop(ORIENTATION, None)
        kept[SOFTWARE_TAG] = SOFTWARE
        options["exif"] = kept.tobytes()
    if xmp is not None and kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = text
    elif xmp is not None:
        options["xmp"] = xmp
    return options
