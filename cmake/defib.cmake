# How every module, program and test of this project is built.

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

find_program(DEFIB_CCACHE ccache)
if(DEFIB_CCACHE)
  # What ccache needs to keep objects that use a precompiled header (its manual, "Precompiled headers").
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${DEFIB_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()
option(DEFIB_PCH "Precompile the headers that nearly every file includes" ON)

# Frame pointers and build ids are what the postmortem's unwinder relies on.
add_compile_options(
  -Wall -Wextra -Wshadow $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor> -Werror -fno-omit-frame-pointer -D_GLIBCXX_ASSERTIONS)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
  add_compile_options(-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -fstack-protector-strong
                      -fstack-clash-protection -fcf-protection)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # False alarms of g++ 12 about std::string at -O2 (gcc.gnu.org/PR105651, PR105329, PR105762).
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>
                      $<$<COMPILE_LANGUAGE:CXX>:-Wno-array-bounds>
                      $<$<COMPILE_LANGUAGE:CXX>:-Wno-stringop-overflow>)
endif()
add_link_options(-Wl,-z,relro,-z,now,--build-id=sha1)

set(DEFIB_SANITIZER "" CACHE STRING "address or thread")
if(DEFIB_SANITIZER STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined)
  add_link_options(-fsanitize=address,undefined)
elseif(DEFIB_SANITIZER STREQUAL "thread")
  # The kernel facilities that fences would stand for are not instrumented; we use none.
  add_compile_options(-fsanitize=thread -Wno-tsan)
  add_link_options(-fsanitize=thread)
endif()

# What is tested is compiled as it ships. Tests themselves are optimized less, which saves a fifth of
# the build's time, or with a sanitizer not at all: its checks take the optimizer long.
function(defib_optimize_tests target)
  if(NOT DEFIB_SANITIZER STREQUAL "")
    target_compile_options(${target} PRIVATE -O0)
  elseif(CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
    target_compile_options(${target} PRIVATE -O1)
  endif()
endfunction()

# Modules and tests share two precompiled headers. They are a matter of the build's time alone: every
# file still includes what it uses (cmake -DDEFIB_PCH=OFF builds without them).
function(defib_precompile target kind)
  if(NOT DEFIB_PCH)
    return()
  endif()
  if(NOT TARGET defib_pch_${kind})
    set(headers <algorithm> <array> <charconv> <chrono> <cstdint> <expected> <functional> <map> <memory>
                <optional> <set> <span> <string> <string_view> <utility> <vector> <fmt/format.h>)
    if(kind STREQUAL "test")
      list(APPEND headers <gmock/gmock.h> <gtest/gtest.h>)
    endif()
    file(WRITE ${PROJECT_BINARY_DIR}/pch_${kind}.cc "")
    add_library(defib_pch_${kind} OBJECT ${PROJECT_BINARY_DIR}/pch_${kind}.cc)
    target_link_libraries(defib_pch_${kind} PRIVATE fmt::fmt)
    if(kind STREQUAL "test")
      target_link_libraries(defib_pch_${kind} PRIVATE GTest::gmock)
      defib_optimize_tests(defib_pch_${kind})
    endif()
    if(NOT kind STREQUAL "module")
      # As the compiler is called for programs.
      set_target_properties(defib_pch_${kind} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
      target_compile_options(defib_pch_${kind} PRIVATE -fPIE)
    endif()
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(defib_pch_${kind} PRIVATE -fpch-preprocess)
    endif()
    target_precompile_headers(defib_pch_${kind} PRIVATE ${headers})
  endif()
  target_precompile_headers(${target} REUSE_FROM defib_pch_${kind})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
endfunction()

set(DEFIB_MODULES "" CACHE INTERNAL "")
# What an installation has; ./demo builds no more than this.
add_custom_target(programs)

# defib_module(NAME [DEPS module...] [LINK target...] [PUBLIC_LINK target...]
#              [FILES pattern...] [EXCLUDE pattern...] [TEST_LINK target...] [TIMED])
# One library from every .cc of the folder, and one test binary from every *_test.cc.
# DEPS are modules by their short name; LINK are third-party targets, private to the module.
# A folder that holds two libraries splits its files by FILES and EXCLUDE (globs, such as http*).
# TIMED: its tests look at times of real processes, and run beside no others. BARE: the library needs
# the C library alone, and is compiled with options of its own.
function(defib_module name)
  cmake_parse_arguments(M "TIMED;BARE" "" "DEPS;LINK;PUBLIC_LINK;FILES;EXCLUDE;TEST_LINK" ${ARGN})
  if(NOT M_FILES)
    set(M_FILES *)
  endif()
  file(GLOB files CONFIGURE_DEPENDS ${M_FILES})
  if(M_EXCLUDE)
    file(GLOB excluded CONFIGURE_DEPENDS ${M_EXCLUDE})
    list(REMOVE_ITEM files ${excluded})
  endif()
  set(sources ${files})
  set(tests ${files})
  set(fuzzers ${files})
  set(headers ${files})
  list(FILTER sources INCLUDE REGEX "\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")
  list(FILTER headers INCLUDE REGEX "\\.h$")
  list(REMOVE_ITEM sources ${tests} ${fuzzers})
  add_library(defib_${name} STATIC ${sources})
  add_library(defib::${name} ALIAS defib_${name})
  set_target_properties(defib_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(defib_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  list(TRANSFORM M_DEPS PREPEND defib::)
  target_link_libraries(defib_${name} PUBLIC ${M_DEPS} ${M_PUBLIC_LINK} PRIVATE ${M_LINK})
  target_compile_features(defib_${name} PUBLIC cxx_std_23)
  if(NOT M_BARE)
    defib_precompile(defib_${name} module)
  endif()
  target_sources(defib_${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}
                 FILES ${headers})
  set_target_properties(defib_${name} PROPERTIES VERIFY_INTERFACE_HEADER_SETS ON)
  install(TARGETS defib_${name} EXPORT defib-${name} FILE_SET HEADERS
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT defib-${name} NAMESPACE defib:: FILE defib-${name}.cmake
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/defib)
  set(DEFIB_MODULES "${DEFIB_MODULES};${name}" CACHE INTERNAL "")
  if(DEFIB_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE defib::${name} ${M_TEST_LINK} GTest::gmock
                          GTest::gtest_main)
    defib_precompile(${name}_test test)
    defib_optimize_tests(${name}_test)
    add_test(NAME ${name} COMMAND ${name}_test --gtest_brief=1)
    set_tests_properties(${name} PROPERTIES TIMEOUT 600 RUN_SERIAL ${M_TIMED})
  endif()
  if(DEFIB_FUZZERS)
    foreach(fuzzer ${fuzzers})
      get_filename_component(fuzzer_name ${fuzzer} NAME_WE)
      add_executable(${fuzzer_name} ${fuzzer})
      target_compile_options(${fuzzer_name} PRIVATE -fsanitize=fuzzer)
      target_link_options(${fuzzer_name} PRIVATE -fsanitize=fuzzer)
      target_link_libraries(${fuzzer_name} PRIVATE defib::${name} ${M_TEST_LINK})
    endforeach()
  endif()
endfunction()

# defib_app(NAME [SOURCES file...] [DEPS module...] [LINK target...]): an installed program.
function(defib_app name)
  cmake_parse_arguments(A "NO_INSTALL" "" "SOURCES;DEPS;LINK" ${ARGN})
  if(NOT A_SOURCES)
    file(GLOB A_SOURCES CONFIGURE_DEPENDS *.cc)
    file(GLOB tests CONFIGURE_DEPENDS *_test.cc)
    list(REMOVE_ITEM A_SOURCES ${tests})
  endif()
  add_executable(${name} ${A_SOURCES})
  list(TRANSFORM A_DEPS PREPEND defib::)
  target_link_libraries(${name} PRIVATE ${A_DEPS} ${A_LINK})
  add_dependencies(programs ${name})
  if(defib::base IN_LIST A_DEPS)
    defib_precompile(${name} program)
  endif()
  if(NOT A_NO_INSTALL)
    install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endfunction()

# defib_freestanding(NAME [NO_INSTALL]): makes the executable static, without a C++ runtime and without
# a C library (apps/defib-shim/freestanding.cc), so that its memory is what it uses.
function(defib_freestanding name)
  cmake_parse_arguments(F "NO_INSTALL" "" "" ${ARGN})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_options(${name} PRIVATE -fno-exceptions -fno-rtti -fno-threadsafe-statics
                         -U_GLIBCXX_ASSERTIONS -Wno-missing-field-initializers)
  target_compile_definitions(${name} PRIVATE _GNU_SOURCE)
  if(NOT DEFIB_SANITIZER STREQUAL "")
    message(STATUS "${name}: linked with the C library, because of the sanitizer")
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|aarch64)$")
    set(library ${PROJECT_SOURCE_DIR}/apps/defib-shim/freestanding.cc)
    set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_sources(${name} PRIVATE ${library})
    target_compile_definitions(${name} PRIVATE DEFIB_FREESTANDING=1)
    # The canary of the stack protector and the checked functions of _FORTIFY_SOURCE are the
    # library's.
    target_compile_options(${name} PRIVATE -Os -fno-pie -fno-stack-protector
                           "SHELL:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=0"
                           -fno-asynchronous-unwind-tables)
    set_source_files_properties(${library} PROPERTIES
      COMPILE_OPTIONS "-fno-builtin;-fno-tree-loop-distribute-patterns")
    target_link_options(${name} PRIVATE -static -no-pie -nostdlib)
    target_link_libraries(${name} PRIVATE gcc)
  else()
    message(STATUS "${name}: linked with the C library on ${CMAKE_SYSTEM_PROCESSOR}")
    target_link_options(${name} PRIVATE -static)
  endif()
  if(NOT F_NO_INSTALL)
    install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    add_dependencies(programs ${name})
  endif()
endfunction()

# defib_script_tests(PREFIX SCRIPT TIMEOUT GROUP...): each group of a Python test of the installed
# programs as a test of its own, PREFIX_group.
function(defib_script_tests prefix script timeout)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  foreach(group ${ARGN})
    string(TOLOWER ${prefix}_${group} test)
    add_test(NAME ${test} COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/${script}
                                  ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} ${group})
    set_tests_properties(${test} PROPERTIES LABELS e2e TIMEOUT ${timeout} RUN_SERIAL ON)
  endforeach()
endfunction()

# find_package(defib COMPONENTS store) gives defib::store and what lies under it, nothing else.
function(defib_install_package)
  include(CMakePackageConfigHelpers)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/defibConfig.cmake.in
                 ${PROJECT_BINARY_DIR}/defibConfig.cmake @ONLY)
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/defibConfigVersion.cmake
                                   COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/defibConfig.cmake
                ${PROJECT_BINARY_DIR}/defibConfigVersion.cmake
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/defib)
endfunction()
