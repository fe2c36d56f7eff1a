# bench/*.cpp: one program a file, with google-benchmark's main unless it has its own. bench/support
# is what they share.
add_custom_target(benches)
add_library(bench_support STATIC EXCLUDE_FROM_ALL bench/support/data.cpp)
target_include_directories(bench_support PUBLIC bench)
target_link_libraries(bench_support PUBLIC prescore prescore_internal)

file(GLOB bench_sources CONFIGURE_DEPENDS bench/*.cpp)
foreach(source IN LISTS bench_sources)
  get_filename_component(name ${source} NAME_WE)
  set(target bench_${name})  # short names such as `memory` belong to everybody
  add_executable(${target} EXCLUDE_FROM_ALL ${source})
  target_link_libraries(${target} PRIVATE
    bench_support TBB::tbb benchmark::benchmark benchmark::benchmark_main)
  set_target_properties(${target} PROPERTIES
    OUTPUT_NAME ${name} RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
  add_dependencies(benches ${target})
endforeach()

# The C ABI as a shared library, for bench/dense_vs_torch.py.
add_library(bench_c_api SHARED EXCLUDE_FROM_ALL src/common/c_api.cpp)
target_compile_definitions(bench_c_api PRIVATE PRESCORE_VERSION="${PROJECT_VERSION}")
target_link_libraries(bench_c_api PRIVATE prescore prescore_internal)
set_target_properties(bench_c_api PROPERTIES
  OUTPUT_NAME prescore LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
add_dependencies(benches bench_c_api)
