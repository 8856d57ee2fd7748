"""Resource names in their short and long forms."""


def session(text: str) -> str:
    """"sessions/x" from "x" or "sessions/x"."""
    return text if not text or text.startswith("sessions/") else f"sessions/{text}"


def session_id(text: str) -> str:
    """"x" from either form."""
    return text[len("sessions/"):] if text.startswith("sessions/") else text


def snapshot(text: str, in_session: str = "") -> str:
    """"sessions/x/snapshots/y" from that, from "x/y", or from "y" within a session."""
    if "/snapshots/" in text:
        return session(text)
    owner, slash, own = session_id(text).partition("/")
    if slash:
        return f"sessions/{owner}/snapshots/{own}"
    if in_session and text:
        return f"{session(in_session)}/snapshots/{text}"
    return text


def session_or_snapshot(text: str) -> str:
    """Either kind: what has a slash beside the collection's name is a snapshot."""
    return snapshot(text) if "/" in session_id(text) else session(text)
