# fuzz/fuzz_*.cpp: one libFuzzer program a file. Under ctest each runs PRESCORE_FUZZ_SECONDS from a
# fixed seed; a starting corpus may lie in fuzz/corpus/<name>.
if(NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
  message(FATAL_ERROR "PRESCORE_FUZZ needs clang (preset fuzz)")
endif()

file(GLOB fuzz_sources CONFIGURE_DEPENDS fuzz/fuzz_*.cpp)
foreach(source IN LISTS fuzz_sources)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE prescore prescore_internal)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  # New inputs go to the build folder, never to the repository.
  set(found ${PROJECT_BINARY_DIR}/corpus/${name})
  file(MAKE_DIRECTORY ${found})
  set(corpus ${found})
  if(IS_DIRECTORY ${PROJECT_SOURCE_DIR}/fuzz/corpus/${name})
    list(APPEND corpus ${PROJECT_SOURCE_DIR}/fuzz/corpus/${name})
  endif()
  add_test(NAME fuzz.${name}
           COMMAND ${name} -seed=1 -max_total_time=${PRESCORE_FUZZ_SECONDS} -rss_limit_mb=4096
                   -timeout=30 -print_final_stats=1 ${corpus})
  set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz)
endforeach()
# What the hosts read from files, without the hosts.
target_sources(fuzz_profile PRIVATE ${PROJECT_SOURCE_DIR}/hosts/common/profile.cpp)
target_include_directories(fuzz_profile PRIVATE ${PROJECT_SOURCE_DIR}/hosts)
target_link_libraries(fuzz_profile PRIVATE nlohmann_json::nlohmann_json)
