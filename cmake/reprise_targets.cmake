# reprise_library(NAME SRCS ... [PUBLIC targets] [PRIVATE targets])
# One module = one static library `reprise_NAME` with the alias `reprise::NAME`.
# Headers are included by their path from the root of the tree. PUBLIC names
# what a header of the module needs, PRIVATE the rest.
function(reprise_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;PUBLIC;PRIVATE" ${ARGN})
  add_library(reprise_${name} STATIC ${ARG_SRCS})
  add_library(reprise::${name} ALIAS reprise_${name})
  target_include_directories(reprise_${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(reprise_${name} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
endfunction()

# reprise_test(NAME SRCS ... LINK targets)
# A GoogleTest binary, registered with ctest; its results also go to an XML
# file from which tools/test.sh sums up.
function(reprise_test name)
  cmake_parse_arguments(ARG "" "" "SRCS;LINK" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} --gtest_output=xml:${CMAKE_BINARY_DIR}/test-results/${name}.xml
           WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
endfunction()

# reprise_fuzz(NAME SRCS ... LINK targets): a libFuzzer target (clang only).
function(reprise_fuzz name)
  cmake_parse_arguments(ARG "" "" "SRCS;LINK" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_LINK})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()
