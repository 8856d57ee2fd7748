"""The chart's objects, as a cluster would get them, and questions that tests ask about them."""

import yaml

from helm import CHART

EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which one would be lost."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(map(str, keys))):
            raise yaml.constructor.ConstructorError(None, None, f"a key is given twice: {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


class Objects(list):
    """Of one release; `notes` are what its installer reads."""

    def of(self, kind):
        return [o for o in self if o["kind"] == kind]

    def one(self, kind, suffix=""):
        found = [o for o in self.of(kind) if o["metadata"]["name"] == "trial-reprise" + suffix]
        assert len(found) == 1, (kind, suffix, [o["metadata"]["name"] for o in self.of(kind)])
        return found[0]

    @property
    def pod(self):
        """The template of the servers' pods."""
        return self.one("Deployment")["spec"]["template"]

    @property
    def server(self):
        """Their container."""
        return self.pod["spec"]["containers"][0]

    @property
    def config(self):
        """Flags of the server's configuration file, as text."""
        text = self.one("ConfigMap")["data"]["reprised.conf"]
        return dict(line.split(" = ", 1) for line in text.splitlines())

    def selected(self, selector):
        """Pod templates and pods with these labels."""
        pods = [(o["kind"], o["spec"]["template"]) for o in self if "template" in o.get("spec", {})]
        pods += [(o["kind"], o) for o in self.of("Pod")]
        return [(kind, pod) for kind, pod in pods if selector.items() <= pod["metadata"]["labels"].items()]


class Chart:
    def __init__(self, helm, folder):
        self._helm = helm
        self._folder = folder
        self._rendered = {}

    def render(self, example=None, **values):
        """Objects of an example's values, or of the defaults, with `values` over them."""
        key = repr((example, values))
        if key not in self._rendered:
            files = [CHART / "examples" / f"{example}.yaml"] if example else []
            text = self._helm.template(values, files, chart=self._folder)
            objects = [o for o in yaml.load_all(text, UniqueKeys) if o]
            self._rendered[key] = Objects(o for o in objects if o["kind"] != "Notes")
            [self._rendered[key].notes] = [o["text"] for o in objects if o["kind"] == "Notes"]
        return self._rendered[key]
