"""Bugs of the HTTP endpoint."""

ENDPOINT = "defib/endpoint/endpoint.cc"

BUGS = [
    ("every token is right", "Endpoint.TextsAreCompared*:Endpoint.ChangingNeeds*", [
        (ENDPOINT, "  return different == 0;\n", "  return different == 0 || !a.empty();\n")]),
    ("without a token in the configuration anybody may change", "Endpoint.ChangingNeeds*", [
        (ENDPOINT, "  if (options_.token.empty()) return 403;\n",
         "  if (options_.token.empty()) return 200;\n")]),
    ("others read without a token", "Endpoint.OthersSee*", [
        (ENDPOINT, "  if (changes || (!options_.loopback && !open)) {\n", "  if (changes) {\n")]),
    ("any name of the host is this machine's", "Endpoint.ChangingNeeds*", [
        (ENDPOINT, "  if (options_.loopback && !host.empty() && !is_local_host(host)) {\n",
         "  if (options_.loopback && host.size() > 1000) {\n")]),
    ("a service's name may lead out of its directory", "Endpoint.ARoute*", [
        (ENDPOINT, "  return !name.empty() && name.size() <= process::kMaxServiceName && "
                   "plain(name[0]) &&\n", "  return !name.empty() &&\n")]),
]
