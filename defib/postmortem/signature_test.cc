// What must not change a signature, and what must.

#include "defib/postmortem/signature.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace defib::postmortem {
namespace {

using ::testing::HasSubstr;
using Stack = std::vector<SignatureFrame>;

SignatureFrame of(std::string function, std::string module = "/srv/engine") {
  return {std::move(module), 0x1234, std::move(function)};
}
SignatureFrame of_libc(std::string function) {
  return of(std::move(function), "/lib/x86_64-linux-gnu/libc.so.6");
}

SignatureFacts crash(std::string cause, Stack stack) {
  SignatureFacts facts;
  facts.cause = std::move(cause);
  facts.stacks = {std::move(stack)};
  return facts;
}

TEST(Signature, IsMadeOfCauseAndFunctions) {
  const Signature one =
      sign(crash("segmentation_fault",
                 {of("settle(int)"), of("run()"), of("main"), of_libc("__libc_start_main")}));
  EXPECT_EQ(one.text, "segmentation_fault in settle(int) < run() < main");
  EXPECT_EQ(one.id.size(), 16U);
  EXPECT_NE(one.id,
            sign(crash("segmentation_fault", {of("book(int)"), of("run()"), of("main")})).id);
  EXPECT_NE(one.id, sign(crash("bus_error", {of("settle(int)"), of("run()"), of("main")})).id);
  EXPECT_NE(one.id, sign(crash("segmentation_fault", {of("settle(int)"), of("main")})).id);
}

TEST(Signature, DoesNotDependOnAddressesAndLibrariesVersions) {
  Stack here = {of(""), of("run()")}, there = here;
  here[0].module = "/usr/lib/libvendor.so.1.2.3";
  there[0].module = "/opt/lib/libvendor.so.1.2.4";
  EXPECT_EQ(sign(crash("abort", here)).id, sign(crash("abort", there)).id);
  EXPECT_THAT(sign(crash("abort", here)).text, HasSubstr("libvendor.so+0x1234"));
  there[0].offset = 0x5678;
  EXPECT_NE(sign(crash("abort", here)).id, sign(crash("abort", there)).id);
}

TEST(Signature, LeavesOutHowTheRuntimeEndedTheProgram) {
  const Stack bare = {of("check(Order const&)"), of("main")};
  Stack dressed = {of_libc("__pthread_kill_implementation"),
                   of_libc("raise"),
                   of_libc("abort"),
                   of("__assert_fail"),
                   of("defib::postmortem::note_assertion(char const*)"),
                   of("std::vector<int>::at(unsigned long)"),
                   of("void std::__introsort_loop<int*, long>(int*, int*, long)")};
  dressed.insert(dressed.end(), bare.begin(), bare.end());
  dressed.push_back(of_libc("__libc_start_call_main"));
  EXPECT_EQ(sign(crash("abort", bare)).id, sign(crash("abort", dressed)).id);
  // A program of which nothing else is seen still has a place.
  EXPECT_THAT(sign(crash("abort", {of_libc("free"), of_libc("exit")})).text,
              HasSubstr("free < exit"));
}

TEST(Signature, DoesNotDependOnNumbersThatCompilersGive) {
  EXPECT_EQ(plain_function("run()::{lambda(int)#3}::operator()(int) const"),
            plain_function("run()::{lambda(int)#12}::operator()(int) const"));
  EXPECT_EQ(plain_function("parse(int) [clone .constprop.0]"), "parse(int)");
  EXPECT_EQ(plain_function("parse.part.0"), "parse");
  EXPECT_EQ(plain_function("name[abi:cxx11]() [clone .cold]"), "name()");
  EXPECT_EQ(plain_function("memcpy@@GLIBC_2.14"), "memcpy");
  EXPECT_EQ(plain_function(".cold"), ".cold");
}

TEST(Signature, OfARecursionDoesNotDependOnItsDepth) {
  const auto depth = [](int count) {
    Stack stack = {of("leaf(Node*)")};
    for (int i = 0; i < count; ++i) stack.push_back(of("visit(Node*)"));
    stack.push_back(of("main"));
    return sign(crash("null_dereference", stack)).id;
  };
  EXPECT_EQ(depth(1), depth(100));
}

TEST(Signature, OfAStackOverflowIsTheCircleWhereverItRanFull) {
  const auto overflow = [](Stack top) {
    for (int i = 0; i < 100; ++i) {
      top.push_back(of(i % 2 == 0 ? "even(int)" : "odd(int)"));
    }
    return sign(crash("stack_overflow", top));
  };
  EXPECT_EQ(overflow({}).text, "stack_overflow in even(int) < odd(int)");
  EXPECT_EQ(overflow({}).id, overflow({of("odd(int)")}).id);
  EXPECT_EQ(overflow({}).id, overflow({of_libc("vfprintf"), of_libc("printf")}).id);
}

TEST(Signature, WhatABadPointerHoldsIsChance) {
  const Stack stack = {of("settle(int)"), of("main")};
  EXPECT_EQ(sign(crash("segmentation_fault", stack)).id, sign(crash("null_dereference", stack)).id);
  EXPECT_NE(sign(crash("segmentation_fault", stack)).id, sign(crash("heap_corruption", stack)).id);
}

TEST(Signature, OfAnAssertionIsItsExpressionAndNotItsLine) {
  SignatureFacts one = crash("assertion_failure", {of("check()"), of("main")}), moved = one,
                 other = one;
  one.message = "engine: book.cc:41: void check(): Assertion `bid < ask' failed.";
  moved.message = "engine: book.cc:57: void check(): Assertion `bid < ask' failed.";
  other.message = "engine: book.cc:42: void check(): Assertion `size > 0' failed.";
  EXPECT_EQ(sign(one).id, sign(moved).id);
  EXPECT_NE(sign(one).id, sign(other).id);
}

TEST(Signature, OfADeadlockDoesNotDependOnTheOrderOfTheThreads) {
  SignatureFacts one = crash("deadlock", {of("transfer()"), of("main")}), other = one;
  one.stacks.push_back({of("book_order()")});
  other.stacks.insert(other.stacks.begin(), {of("book_order()")});
  EXPECT_EQ(sign(one).id, sign(other).id);
  EXPECT_THAT(sign(one).text, HasSubstr(" | "));
}

TEST(Signature, OfABusyLoopIsWhatIsOutsideOfTheLoop) {
  const Stack outer = {of("spin()"), of("run()"), of("serve()"), of("main")};
  Stack in_helper = outer;
  in_helper.insert(in_helper.begin(), {of("hash(int)"), of("mix(int)")});
  EXPECT_EQ(sign(crash("busy_loop", outer)).id, sign(crash("busy_loop", in_helper)).id);
}

TEST(Signature, WithoutAStackIsCauseAndEnd) {
  SignatureFacts facts;
  facts.cause = "exit_failure";
  facts.detail = "exit code 3";
  EXPECT_EQ(sign(facts).text, "exit_failure: exit code 3");
  SignatureFacts other = facts;
  other.detail = "exit code 4";
  EXPECT_NE(sign(facts).id, sign(other).id);
  EXPECT_EQ(sign({"unknown", "", "", "", {}}).id, "");
  EXPECT_EQ(sign({}).id, "");
}

TEST(Signature, IsBoundedWhateverTheStackSays) {
  Stack stack;
  for (int i = 0; i < 2000; ++i) stack.push_back(of(std::string(10'000, 'x') + "[abi:"));
  EXPECT_LT(sign(crash("abort", std::move(stack))).text.size(), 2000U);
}

}  // namespace
}  // namespace defib::postmortem
