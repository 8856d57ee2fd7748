# What `cmake --install` lays down: a folder that can be moved to another Linux of the same or a newer
# glibc. The programs find their libraries beside themselves; the loader and the C library are the
# target's. CUDA's runtime is linked in, its driver is loaded when there is one.
set(REPRISE_PROGRAMS reprised reprise)
foreach(program ${REPRISE_PROGRAMS})
  set_target_properties(${program} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
  # The older form of the tag, which also holds for the libraries of libraries.
  target_link_options(${program} PRIVATE -Wl,--disable-new-dtags)
endforeach()
install(TARGETS ${REPRISE_PROGRAMS}
        RUNTIME_DEPENDENCIES
          PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|util)\\.so" "^libcuda\\.so"
          POST_EXCLUDE_REGEXES "/ld-linux[^/]*$"
        RUNTIME DESTINATION bin
        LIBRARY DESTINATION lib)
install(DIRECTORY models/bundled/ DESTINATION share/reprise/models)
install(FILES README.md DESTINATION share/reprise)
