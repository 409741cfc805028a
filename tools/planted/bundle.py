"""Bugs of what a bundle says about changes since the last good run."""

CHANGES = "defib/postmortem/bundle_changes.cc"

BUGS = [
    ("values of the environment can be guessed from their hashes", "Changes.HoldNoSecret*", [
        (CHANGES, "  std::string text(key);\n", "  std::string text(key.substr(key.size()));\n")]),
    ("secrets in the settings are kept", "Changes.HoldNoSecret*", [
        (CHANGES, "redactor.json(facts.settings)", "facts.settings")]),
    ("a changed value is no change", "Changes.NameTheEnvironment*", [
        (CHANGES, "} else if (before[name] != hash) {", "} else if (hash.is_null()) {")]),
    ("a file is told apart by its size alone", "Changes.NameTheConfiguration*", [
        (CHANGES, 'json.set("sha256", sha256_hex(*text));', "json.set(\"sha256\", \"same\");")]),
    ("each run is another one", "Changes.AreKept*", [
        (CHANGES, "!run_differences(runs_.back()[\"run\"], description).empty()", "true")]),
]
