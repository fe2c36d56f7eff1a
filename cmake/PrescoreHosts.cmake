# hosts/common   what both hosts share: reading a FLASH_ATTN_EXT node, serving it
# hosts/llama    the libllama host (evaluation callback)
# hosts/ggml     the loadable backend for unmodified llama.cpp programs

file(GLOB host_common_sources CONFIGURE_DEPENDS hosts/common/*.cpp)
file(GLOB host_llama_sources CONFIGURE_DEPENDS hosts/llama/*.cpp)
file(GLOB host_ggml_sources CONFIGURE_DEPENDS hosts/ggml/*.cpp)

# data/profiles is compiled in: a plug-in has no folder of its own to look into.
file(GLOB profiles CONFIGURE_DEPENDS data/profiles/*.json)
set(shipped ${PROJECT_BINARY_DIR}/shipped_profiles.cpp)
set(embed ${PROJECT_SOURCE_DIR}/cmake/EmbedProfiles.cmake)
add_custom_command(OUTPUT ${shipped}
  COMMAND ${CMAKE_COMMAND} -DFOLDER=${PROJECT_SOURCE_DIR}/data/profiles -DOUTPUT=${shipped} -P ${embed}
  DEPENDS ${profiles} ${embed} VERBATIM)

if(host_common_sources)
  add_library(prescore_host_common STATIC ${host_common_sources} ${shipped})
  target_link_libraries(prescore_host_common PRIVATE nlohmann_json::nlohmann_json)
  set(scope PUBLIC)
else()
  add_library(prescore_host_common INTERFACE)
  set(scope INTERFACE)
endif()
target_include_directories(prescore_host_common ${scope} hosts)
target_link_libraries(prescore_host_common ${scope} prescore prescore_internal ggml::ggml-base)

if(host_llama_sources)
  add_library(prescore_llama STATIC ${host_llama_sources})
  target_link_libraries(prescore_llama PUBLIC prescore_host_common llama)
endif()

if(host_ggml_sources)
  add_library(ggml-prescore MODULE ${host_ggml_sources})
  # ggml-base by name: a process that has ggml loaded already provides it under the same soname.
  target_link_libraries(ggml-prescore PRIVATE prescore_host_common ggml::ggml)
  # The version script leaves only ggml's entry points visible: inside somebody else's process
  # nothing of ours may replace, or be replaced by, a symbol of the same name.
  set(map ${PROJECT_SOURCE_DIR}/cmake/ggml-prescore.map)
  target_link_options(ggml-prescore PRIVATE -Wl,--version-script=${map})
  set_target_properties(ggml-prescore PROPERTIES
    LINK_DEPENDS ${map}
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
  install(TARGETS ggml-prescore LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT tools)
endif()
