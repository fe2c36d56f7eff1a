# Writes OUTPUT, a C++ file that holds the profiles of data/profiles: -DFOLDER=, -DOUTPUT=.
file(GLOB files ${FOLDER}/*.json)
list(SORT files)
set(code "// Made by cmake/EmbedProfiles.cmake from data/profiles.\n#include \"common/profile_files.h\"\n\n")
string(APPEND code "namespace prescore::host {\n\n"
  "const std::vector<std::pair<std::string_view, std::string_view>>& shipped_profiles() {\n"
  "  static const std::vector<std::pair<std::string_view, std::string_view>> all = {\n")
foreach(file IN LISTS files)
  get_filename_component(name ${file} NAME)
  file(READ ${file} text)
  string(APPEND code "      {\"${name}\", R\"profile(${text})profile\"},\n")
endforeach()
string(APPEND code "  };\n  return all;\n}\n\n}  // namespace prescore::host\n")
file(WRITE ${OUTPUT} "${code}")
