# bench/*.cpp: one program a file, with google-benchmark's main unless it has its own.
file(GLOB bench_sources CONFIGURE_DEPENDS bench/*.cpp)
add_custom_target(benches)
foreach(source IN LISTS bench_sources)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} EXCLUDE_FROM_ALL ${source})
  target_link_libraries(${name} PRIVATE
    prescore prescore_internal TBB::tbb benchmark::benchmark benchmark::benchmark_main)
  if(TARGET prescore_llama)
    target_link_libraries(${name} PRIVATE prescore_llama nlohmann_json::nlohmann_json fmt::fmt)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
  add_dependencies(benches ${name})
endforeach()
