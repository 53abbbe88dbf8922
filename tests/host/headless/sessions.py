"""A project at work on a tiny random base, in this process's own base directory."""


def open_session(base, facts, folder):
    from mos_pack.headless.project import parse_project
    from mos_pack.headless.told import Teller
    from mos_pack.headless.work import Session

    class TinySession(Session):
        """The base is given, not loaded."""

    base.model.model.native_size = 64
    TinySession.base = (base.model, base.clip, base.vae)
    project = {"version": 1, "model": {"base": "SD1.5 kind"}, **facts}
    return TinySession(parse_project(project, folder / "mixofshow.yaml"), Teller()).start()
