"""Bugs of the signatures that equal crashes are counted by."""

SIGNATURE = "defib/postmortem/signature.cc"

BUGS = [
    ("frames of the runtime are part of a bug", "Signature.LeavesOut*", [
        (SIGNATURE, "    if (is_runtime(frames[i]) != of_runtime) continue;\n",
         "    if (is_runtime(frames[i]) && of_runtime) continue;\n")]),
    ("a recursion's depth is part of a bug", "Signature.OfARecursion*", [
        (SIGNATURE, "if (!place.empty() && std::ranges::find(places, place) == places.end()) {",
         "if (!place.empty() && places.size() < kMaxFrames) {")]),
    ("numbers of lambdas are part of a bug", "Signature.DoesNotDependOnNumbers*", [
        (SIGNATURE, "    text.erase(at + 1, end - at - 1);\n", "")]),
    ("the order of threads is part of a deadlock", "Signature.OfADeadlock*", [
        (SIGNATURE, "  std::ranges::sort(threads);\n", "")]),
    ("all assertions of a function are one", "Signature.OfAnAssertion*", [
        (SIGNATURE, "!assertion.empty()", "!assertion.empty() && tail.size() > 1")]),
    ("where a stack ran full is part of the overflow", "Signature.OfAStackOverflow*", [
        (SIGNATURE, "    if (count >= kRecursions) places.push_back(place);\n",
         "    if (count > 0) places.push_back(place);\n")]),
    ("all ends without a stack are one", "Signature.WithoutAStack*", [
        (SIGNATURE, "    if (!facts.detail.empty()) tail +=",
         "    if (facts.detail.size() > 1000) tail +=")]),
]
