"""Answers that others have written down, for the primitives under signing.

What lives here: test cases of RFC 4231 (HMAC), RFC 5869 (HKDF), FIPS 197 (AES), of "The Galois/Counter Mode of
Operation" by McGrew and Viega (cases 13 to 16), of NIST's CAVP and of IEEE 802.1AE (GMAC). What must not: anything
computed here.
"""

from __future__ import annotations

# (key, data, tag): RFC 4231, 4.2 to 4.8; the fifth is cut to 16 bytes there
HMAC_SHA256: tuple[tuple[bytes, bytes, str], ...] = (
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)), b"\xcd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        b"\xaa" * 131,
        b"This is a test using a larger than block-size key and a larger than block-size data."
        b" The key needs to be hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
)

# (input key, salt, info, PRK, output): RFC 5869, A.1 to A.3
HKDF_SHA256: tuple[tuple[bytes, bytes, bytes, str, str], ...] = (
    (
        b"\x0b" * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        b"\x0b" * 22,
        b"",
        b"",
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
)

# (key, block, encrypted): FIPS 197, C.3
AES_256 = (bytes(range(32)), bytes(n * 0x11 for n in range(16)), "8ea2b7ca516745bfeafc49904b496089")

_KEY = "feffe9928665731c6d6a8f9467308308" * 2
_TEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    "b16aedf5aa0de657ba637b391aafd255"
)
_SEALED = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
    "c5f61e6393ba7a0abcc9f662898015ad"
)

# name: (key, nonce, plaintext, aad, ciphertext, tag), all hex
AES_256_GCM: dict[str, tuple[str, str, str, str, str, str]] = {
    "McGrew-Viega 13, nothing": ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    "McGrew-Viega 14, one block": (
        *("00" * 32, "00" * 12, "00" * 16, ""),
        *("cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
    ),
    "McGrew-Viega 15, four blocks": (
        *(_KEY, "cafebabefacedbaddecaf888", _TEXT, ""),
        *(_SEALED, "b094dac5d93471bdec1a502270e3cc6c"),
    ),
    "McGrew-Viega 16, plaintext and AAD": (
        *(_KEY, "cafebabefacedbaddecaf888", _TEXT[:120], "feedfacedeadbeeffeedfacedeadbeefabaddad2"),
        *(_SEALED[:120], "76fc6ece0f4e1768cddf8853bb2d551b"),
    ),
    "CAVP gcmEncryptExtIV256, AAD of 128 bits alone": (
        *("78dc4e0aaf52d935c3c01eea57428f00ca1fd475f5da86a49c8dd73d68c8e223", "d79cf22d504cc793c3fb6c8a", ""),
        *("b96baa8c1c75a671bfb2d08d06be5f36", "", "3e5d486aa2e30b22e040b85723a06e76"),
    ),
    "IEEE 802.1AE, 54-byte packet, AAD alone": (
        *("e3c08a8f06c6e3ad95a70557b23f75483ce33021a9c72b7025666204c69c0b72", "12153524c0895e81b2c28465", ""),
        "d609b1f056637a0d46df998d88e5222ab2c2846512153524c0895e8108000f101112131415161718191a1b1c1d1e1f20"
        "2122232425262728292a2b2c2d2e2f30313233340001",
        *("", "2f0bc5af409e06d609ea8b7d0fa5ea50"),
    ),
}
