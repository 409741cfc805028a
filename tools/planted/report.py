"""Bugs of the reports for people."""

HTML = "defib/report/html.cc"
ADVICE = "defib/report/advice.cc"
VISIBLE = "defib/base/visible_text.cc"
DOCUMENT = "defib/report/document.cc"

BUGS = [
    ("text of the process becomes markup", "Html.NoText*", [
        (HTML, '        html += "&lt;";\n', '        html += "<";\n')]),
    ("a list item is not escaped", "Html.NoText*", [
        (HTML, '"<li>" + escaped(item.text)', '"<li>" + item.text')]),
    ("a title is not escaped", "Html.NoText*", [
        (HTML, 'html += "<details><summary>" + escaped(block.text)',
         'html += "<details><summary>" + block.text')]),
    ("control characters get through", "VisibleText.*:TextForm.*", [
        (VISIBLE, "  if (number < 0x20 || (number >= 0x7f && number < 0xa0)) return false;\n", "")]),
    ("text may change its direction", "VisibleText.*", [
        (VISIBLE, "  if (number >= 0x2028 && number <= 0x202e) return false;\n", "")]),
    ("a name in a command is run by the shell", "Advice.Commands*:Advice.Names*", [
        (ADVICE, "    const std::string word = quoted(value);\n",
         "    const std::string word = value.size() > 9000 ? quoted(value) : std::string(value);\n")]),
    ("a disconnected exchange is not noticed", "Advice.ADisconnected*", [
        (ADVICE, "facts.venue_disconnected || tells_of_a_disconnect(entry)",
         "facts.venue_disconnected || (facts.cause.empty() && tells_of_a_disconnect(entry))")]),
    ("refused memory was taken by the kernel", "Advice.OfMemory*", [
        (ADVICE, "case_of(facts.cause, facts.subtype)", "case_of(facts.cause)")]),
    ("a flood of output is shown whole", "Html.IsBounded*", [
        (DOCUMENT, "constexpr std::size_t kMaxLogLines = 400;",
         "constexpr std::size_t kMaxLogLines = 400'000;")]),
]
